"""The recurrences over time, stacked over networks, with gradients written out.

Autograd through a loop over T steps records a dozen nodes a step and sums the weight gradient step by step. Here the loop over
time does only what must be sequential; the factors of the gradient are formed for many steps at once, and the weight gradient is
one matrix product over T*B rows. `*_reference` are the same recurrences in plain autograd: the oracle.

Legend: T time, M networks, B batch (rows), H hidden units, G = gates * H. Weights multiply from the right: gates = h @ w.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor


def _rows(x_TMBF: Tensor) -> Tensor:
    """(T, M, B, F) -> (M, T*B, F): all the rows of a network together, for one product per network."""
    time, networks, batch, features = x_TMBF.shape
    return x_TMBF.transpose(0, 1).reshape(networks, time * batch, features)


# Numbers of one network's step above which the steps of a network lie together in memory. Then `_rows` is a view, and a training step of
# 16 GRU-256 takes 0.92 of the time, of 64 GRU-64 0.97; with the small pieces of 256 GRU-16, 2 KB each 64 KB apart, 1.24 (one run).
_TOGETHER = 1024

# What is contiguous is computed in pairs of vectors, of up to 32 numbers, across networks, and what is left over at the end one by one, where
# sigmoid rounds otherwise. A network's step of another size lies apart from its neighbours, so that its bits do not depend on how many it has.
_VECTORS = 32

# Steps whose factors of a GRU's gradient are formed at once: few enough to be in cache still when the loop needs them. Against all steps
# at once a forward and backward takes 0.97 of the time for 16 GRU-64 (T = 30, B = 32), 0.95 for 64, 0.94 for 256 GRU-16 (one run).
_FACTORED = 4


def _empty(like: Tensor, time: int, networks: int, batch: int, features: int) -> Tensor:
    """(T, M, B, F), in memory by network or by step."""
    if batch * features >= _TOGETHER:
        return like.new_empty(networks, time, batch, features).transpose(0, 1)
    return like.new_empty(time, networks, batch, features)


def _empty_products(like: Tensor, time: int, networks: int, batch: int, features: int) -> Tensor:
    """(T, M, B, F) of what products are written to and `_rows` does not read: by step, so that the networks of one step are contiguous.

    torch computes a batch of products into any other layout one network after the other. Forward and backward of 256 GRU-16 (T = B = 32)
    take 0.87 of the time, of 64 GRU-64 (T = 50) 0.95.
    """
    if batch * features % _VECTORS:
        return like.new_empty(networks, time, batch, features).transpose(0, 1)
    return like.new_empty(time, networks, batch, features)


# On a CPU, numbers of the states of one step above which the networks of a stack go through time in groups, one after the other: what a step
# writes is in cache still when the next one reads it. A GPU has no such cache to stay in, and every group would be as many launches again.
_CACHED = 32 * 1024


def _in_groups(loop: Callable[..., None], over_time: Sequence[Tensor], of_network: Sequence[Tensor]) -> None:
    """Call `loop` with the tensors (T, M, B, F) and (M, ...) of a few networks at a time. The last of the latter are states (M, B, H)."""
    states = of_network[-1]
    networks, batch, hidden = states.shape
    size = max(1, _CACHED // (batch * hidden)) if states.device.type == "cpu" else networks
    for first in range(0, networks, size):
        group = slice(first, first + size)
        loop(*(tensor[:, group] for tensor in over_time), *(tensor[group] for tensor in of_network))


def _by_sigmoid(a: Tensor) -> bool:
    """Whether tanh(a) is taken as 2 sigmoid(2a) - 1: not in half precision, where the error of about eps would show."""
    return a.device.type == "cpu" and a.element_size() >= 4


def _tanh(a: Tensor, out: Tensor) -> Tensor:
    """tanh of `a`, which is lost. On a CPU by torch's sigmoid, which takes 0.5 ns a number against 2.5 (AMD EPYC): the absolute error is about
    eps, as of the sum that it is taken of. Forward and backward of 256 GRU-16 take 0.92 of the time, of 64 GRU-64 0.96."""
    if not _by_sigmoid(a):
        return torch.tanh(a, out=out)
    return torch.sub(a.mul_(2).sigmoid_().mul_(2), 1, out=out)


def _sigmoid_and_tanh_(a: Tensor, to_tanh: Tensor, to_sigmoid: Sequence[Tensor]) -> None:
    """tanh of one part of `a` and sigmoid of the others, in place. On a CPU the sigmoid of everything at once: of rows of a part, shorter
    than 32 numbers, torch takes it number by number, 90 against 13 us for 64 networks of (B, H) = (32, 16). With the layout and `_tanh`,
    forward and backward of 256 LSTM-16 take 0.7 of the time, of 64 LSTM-64 0.87; of UGRNNs 0.65 and 0.85."""
    if not _by_sigmoid(a):
        to_tanh.tanh_()
        for part in to_sigmoid:
            part.sigmoid_()
        return
    to_tanh.mul_(2)
    a.sigmoid_()
    to_tanh.mul_(2).sub_(1)


def _gru_forward(x: Tensor, h: Tensor, rz: Tensor, n: Tensor, q: Tensor, w: Tensor, bias: Tensor, h0: Tensor) -> None:
    """Fills in the states with the initial one before them, h (T+1, m, B, H), and of the last `len(n)` steps the gates r|z, the candidate n
    and q, its recurrent part before the reset gate."""
    hidden, kept_steps = n.shape[-1], len(n)
    w_rz, w_n = w[..., : 2 * hidden], w[..., 2 * hidden :]
    bias = bias.expand_as(h0)
    h[0] = h0
    x_rz, x_n = x[..., : 2 * hidden].unbind(), x[..., 2 * hidden :].unbind()
    rz_s, n_s, q_s, r_s, z_s = rz.unbind(), n.unbind(), q.unbind(), rz[..., :hidden].unbind(), rz[..., hidden:].unbind()
    states = h.unbind()
    for t in range(len(x)):
        k = t % kept_steps
        torch.baddbmm(x_rz[t], states[t], w_rz, out=rz_s[k]).sigmoid_()
        torch.baddbmm(bias, states[t], w_n, out=q_s[k])
        _tanh(torch.addcmul(x_n[t], r_s[k], q_s[k], out=n_s[k]), out=n_s[k])
        torch.lerp(n_s[k], states[t], z_s[k], out=states[t + 1])


def _gru_backward(grad: Tensor, h: Tensor, rz: Tensor, n: Tensor, q: Tensor, d_x: Tensor, d_q: Tensor, w: Tensor, carry: Tensor) -> None:
    """Fills in the gradients of x, of q and of the initial state, the last in `carry`, which comes as zeros."""
    hidden = n.shape[-1]
    r, z, h_old = rz[..., :hidden], rz[..., hidden:], h[:-1]
    d_r, d_z, d_n = (part.unbind() for part in d_x.split(hidden, dim=-1))
    d_rz_t, d_q_t, r_t, z_t, grad_t = d_x[..., : 2 * hidden].unbind(), d_q.unbind(), r.unbind(), z.unbind(), grad.unbind()
    w_rz_T = w[..., : 2 * hidden].transpose(1, 2).contiguous()
    w_n_T = w[..., 2 * hidden :].transpose(1, 2).contiguous()
    for stop in range(len(grad_t), 0, -_FACTORED):
        first = max(0, stop - _FACTORED)
        r_s, z_s, n_s = r[first:stop], z[first:stop], n[first:stop]
        # d a_n = dh * to_n;  d a_z = dh * to_z;  d a_r = d a_n * to_r   (a: pre-activations of the gates)
        to_n = (1 - z_s).mul_(1 - n_s * n_s).unbind()
        to_z = (h_old[first:stop] - n_s).mul_(z_s).mul_(1 - z_s).unbind()
        to_r = (q[first:stop] * r_s).mul_(1 - r_s).unbind()
        for t in range(stop - 1, first - 1, -1):
            dh = carry.add_(grad_t[t])
            torch.mul(dh, to_n[t - first], out=d_n[t])
            torch.mul(dh, to_z[t - first], out=d_z[t])
            torch.mul(d_n[t], to_r[t - first], out=d_r[t])
            torch.mul(d_n[t], r_t[t], out=d_q_t[t])
            dh.mul_(z_t[t]).baddbmm_(d_rz_t[t], w_rz_T).baddbmm_(d_q_t[t], w_n_T)


def _gru_states(
    x_TMB3H: Tensor, w_MH3H: Tensor, bias_M1H: Tensor, h0_MBH: Tensor, *, kept_steps: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `_gru_forward` fills in; `kept_steps`: all T for the gradient, 1 without (a fifth of the memory, so larger batches stay in cache)."""
    time, networks, batch, width = x_TMB3H.shape
    hidden = width // 3
    h = _empty(x_TMB3H, time + 1, networks, batch, hidden)
    rz = _empty_products(x_TMB3H, kept_steps, networks, batch, 2 * hidden)
    n, q = (_empty_products(x_TMB3H, kept_steps, networks, batch, hidden) for _ in range(2))
    _in_groups(_gru_forward, (x_TMB3H, h, rz, n, q), (w_MH3H, bias_M1H, h0_MBH))
    return h, rz, n, q


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TMB3H: Tensor, w_MH3H: Tensor, bias_M1H: Tensor, h0_MBH: Tensor) -> Tensor:
        h, rz, n, q = _gru_states(x_TMB3H, w_MH3H, bias_M1H, h0_MBH, kept_steps=x_TMB3H.shape[0])
        ctx.save_for_backward(w_MH3H, h, rz, n, q)
        return h[1:]

    @staticmethod
    def backward(ctx: Any, grad_TMBH: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        w, h, rz, n, q = ctx.saved_tensors
        time, networks, batch, hidden = n.shape
        d_x = _empty(n, time, networks, batch, 3 * hidden)  # d a_r, d a_z, d a_n
        d_q, d_h0 = _empty(n, *n.shape), torch.zeros_like(n[0])
        _in_groups(_gru_backward, (grad_TMBH, h, rz, n, q, d_x, d_q), (w, d_h0))
        rows_T = _rows(h[:-1]).transpose(1, 2)
        d_w = torch.cat([torch.bmm(rows_T, _rows(d_x[..., : 2 * n.shape[-1]])), torch.bmm(rows_T, _rows(d_q))], dim=-1)
        return d_x, d_w, d_q.sum(dim=(0, 2)).unsqueeze(1), d_h0


def _rnn_forward(x: Tensor, h: Tensor, w: Tensor, h0: Tensor, *, relu: bool) -> None:
    h[0] = h0
    own = _empty_products(h0, 2, *h0.shape)[0]  # of 2 steps: by network they lie apart, and of 1 they would not
    for x_t, h_old, h_new in zip(x.unbind(), h[:-1].unbind(), h[1:].unbind(), strict=True):
        a = torch.baddbmm(x_t, h_old, w, out=own)
        torch.clamp(a, min=0, out=h_new) if relu else _tanh(a, out=h_new)


def _rnn_backward(grad: Tensor, h: Tensor, d_x: Tensor, w: Tensor, carry: Tensor, *, relu: bool) -> None:
    w_T = w.transpose(1, 2).contiguous()
    for grad_t, h_t, d_t in zip(reversed(grad.unbind()), reversed(h[1:].unbind()), reversed(d_x.unbind()), strict=True):
        torch.mul(carry.add_(grad_t), h_t > 0 if relu else 1 - h_t * h_t, out=d_t)
        torch.bmm(d_t, w_T, out=carry)


class _RNN(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TMBH: Tensor, w_MHH: Tensor, h0_MBH: Tensor, relu: bool) -> Tensor:
        h = _empty(x_TMBH, x_TMBH.shape[0] + 1, *x_TMBH.shape[1:])
        _in_groups(partial(_rnn_forward, relu=relu), (x_TMBH, h), (w_MHH, h0_MBH))
        ctx.relu = relu
        ctx.save_for_backward(w_MHH, h)
        return h[1:]

    @staticmethod
    def backward(ctx: Any, grad_TMBH: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        w, h = ctx.saved_tensors
        d_x, d_h0 = _empty(h, *grad_TMBH.shape), torch.zeros_like(h[0])
        _in_groups(partial(_rnn_backward, relu=ctx.relu), (grad_TMBH, h, d_x), (w, d_h0))
        return d_x, torch.bmm(_rows(h[:-1]).transpose(1, 2), _rows(d_x)), d_h0, None


def _ugrnn_forward(x: Tensor, h: Tensor, gc: Tensor, w: Tensor, h0: Tensor) -> None:
    hidden = h0.shape[-1]
    h[0] = h0
    g_s, c_s, states = gc[..., :hidden].unbind(), gc[..., hidden:].unbind(), h.unbind()
    for t, (x_t, gc_t) in enumerate(zip(x.unbind(), gc.unbind(), strict=True)):
        torch.baddbmm(x_t, states[t], w, out=gc_t)
        _sigmoid_and_tanh_(gc_t, c_s[t], [g_s[t]])
        torch.lerp(c_s[t], states[t], g_s[t], out=states[t + 1])


def _ugrnn_backward(grad: Tensor, h: Tensor, gc: Tensor, d_x: Tensor, w: Tensor, carry: Tensor) -> None:
    hidden = h.shape[-1]
    d_g, d_c, d_x_t, h_old = d_x[..., :hidden].unbind(), d_x[..., hidden:].unbind(), d_x.unbind(), h.unbind()
    g_t, c_t = gc[..., :hidden].unbind(), gc[..., hidden:].unbind()
    w_T = w.transpose(1, 2).contiguous()
    for t in range(len(grad) - 1, -1, -1):
        dh, g, c = carry.add_(grad[t]), g_t[t], c_t[t]
        torch.mul(dh, (h_old[t] - c).mul_(g).mul_(1 - g), out=d_g[t])
        torch.mul(dh, (1 - g).mul_(1 - c * c), out=d_c[t])
        dh.mul_(g).baddbmm_(d_x_t[t], w_T)


class _UGRNN(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TMB2H: Tensor, w_MH2H: Tensor, h0_MBH: Tensor) -> Tensor:
        time, (networks, batch, hidden) = len(x_TMB2H), h0_MBH.shape
        h, gc = _empty(x_TMB2H, time + 1, networks, batch, hidden), _empty_products(x_TMB2H, *x_TMB2H.shape)
        _in_groups(_ugrnn_forward, (x_TMB2H, h, gc), (w_MH2H, h0_MBH))
        ctx.save_for_backward(w_MH2H, h, gc)
        return h[1:]

    @staticmethod
    def backward(ctx: Any, grad_TMBH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        w, h, gc = ctx.saved_tensors
        d_x, d_h0 = _empty(h, *gc.shape), torch.zeros_like(h[0])
        _in_groups(_ugrnn_backward, (grad_TMBH, h, gc, d_x), (w, d_h0))
        return d_x, torch.bmm(_rows(h[:-1]).transpose(1, 2), _rows(d_x)), d_h0


def _lstm_forward(x: Tensor, h: Tensor, c: Tensor, gates: Tensor, tanh_c: Tensor, w: Tensor, c0: Tensor, h0: Tensor) -> None:
    hidden = h0.shape[-1]
    h[0], c[0] = h0, c0
    if_s, (i_s, f_s, g_s, o_s) = gates[..., : 2 * hidden].unbind(), (part.unbind() for part in gates.split(hidden, dim=-1))
    hs, cs, tanh_s = h.unbind(), c.unbind(), tanh_c.unbind()
    for t, (x_t, a_t) in enumerate(zip(x.unbind(), gates.unbind(), strict=True)):
        torch.baddbmm(x_t, hs[t], w, out=a_t)
        _sigmoid_and_tanh_(a_t, g_s[t], [if_s[t], o_s[t]])
        torch.mul(i_s[t], g_s[t], out=cs[t + 1]).addcmul_(f_s[t], cs[t])
        torch.mul(o_s[t], _tanh(tanh_s[t].copy_(cs[t + 1]), out=tanh_s[t]), out=hs[t + 1])


def _lstm_backward(
    grad_h: Tensor, grad_c: Tensor, c: Tensor, gates: Tensor, tanh_c: Tensor, d_x: Tensor, w: Tensor, carry_c: Tensor, carry_h: Tensor
) -> None:
    hidden = c.shape[-1]
    d_i, d_f, d_g, d_o = (part.unbind() for part in d_x.split(hidden, dim=-1))
    i_t, f_t, g_t, o_t = (part.unbind() for part in gates.split(hidden, dim=-1))
    d_x_t, c_old, tanh_s = d_x.unbind(), c.unbind(), tanh_c.unbind()
    w_T = w.transpose(1, 2).contiguous()
    for t in range(len(grad_h) - 1, -1, -1):
        i, f, g, o, tanh_t = i_t[t], f_t[t], g_t[t], o_t[t], tanh_s[t]
        dh = carry_h.add_(grad_h[t])
        dc = carry_c.add_(grad_c[t]).addcmul_(dh, (1 - tanh_t * tanh_t).mul_(o))
        torch.mul(dc, (g * i).mul_(1 - i), out=d_i[t])
        torch.mul(dc, (c_old[t] * f).mul_(1 - f), out=d_f[t])
        torch.mul(dc, (1 - g * g).mul_(i), out=d_g[t])
        torch.mul(dh, (tanh_t * o).mul_(1 - o), out=d_o[t])
        dc.mul_(f)
        torch.bmm(d_x_t[t], w_T, out=carry_h)


class _LSTM(torch.autograd.Function):
    """Gates in torch's order: input i, forget f, candidate g, output o."""

    @staticmethod
    def forward(ctx: Any, x_TMB4H: Tensor, w_MH4H: Tensor, h0_MBH: Tensor, c0_MBH: Tensor) -> tuple[Tensor, Tensor]:
        time, (networks, batch, hidden) = len(x_TMB4H), h0_MBH.shape
        h = _empty(x_TMB4H, time + 1, networks, batch, hidden)
        c, tanh_c = (_empty_products(x_TMB4H, steps, networks, batch, hidden) for steps in (time + 1, time))
        gates = _empty_products(x_TMB4H, *x_TMB4H.shape)
        _in_groups(_lstm_forward, (x_TMB4H, h, c, gates, tanh_c), (w_MH4H, c0_MBH, h0_MBH))
        ctx.save_for_backward(w_MH4H, h, c, gates, tanh_c)
        return h[1:], c[1:]

    @staticmethod
    def backward(ctx: Any, grad_h_TMBH: Tensor, grad_c_TMBH: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        w, h, c, gates, tanh_c = ctx.saved_tensors
        d_x, (d_h0, d_c0) = _empty(h, *gates.shape), (torch.zeros_like(h[0]) for _ in range(2))
        _in_groups(_lstm_backward, (grad_h_TMBH, grad_c_TMBH, c, gates, tanh_c, d_x), (w, d_c0, d_h0))
        return d_x, torch.bmm(_rows(h[:-1]).transpose(1, 2), _rows(d_x)), d_h0, d_c0


def prefers_own_layers(cell: str, hidden: int, device: torch.device) -> bool:
    """Whether a stack trains faster as a loop over torch's own layers than by the recurrences here: on a CPU, of wide LSTMs.

    The loop's time over the stack's, one run (`cluster/experiments/README.md`): GRU 10 (H = 16), 3.2 (64), 1.1 (256), 1.0 (512); LSTM 1.06
    (64), 0.77 (128), 0.87 (256): torch's LSTM has a fused kernel; vanilla RNN 3.8 (64), 1.2 (256); UGRNN 3.6 (64). At M = 1 still 1.7
    (GRU-64).
    """
    return device.type == "cpu" and cell == "lstm" and hidden >= 128


@dataclass(frozen=True)
class Mixing:
    """Before step `step` (at least 1) every sequence of a batch gets the share `share_B`, float (B,), of the state of the one before it, the
    first that of the last, and keeps the rest of its own."""

    step: int
    share_B: Tensor


def mixed(run: Callable[..., tuple[Tensor, ...]], x_TMBG: Tensor, start: Sequence[Tensor], mixing: Mixing | None) -> tuple[Tensor, ...]:
    """The states (T, M, B, H), each kind, of `run(inputs, *start)`, mixed on the way. All states of a network are mixed alike."""
    if mixing is None or mixing.step >= len(x_TMBG):
        return run(x_TMBG, *start)
    first = run(x_TMBG[: mixing.step], *start)
    share = mixing.share_B.to(x_TMBG)[:, None]
    again = run(x_TMBG[mixing.step :], *(torch.lerp(h[-1], h[-1].roll(1, dims=1), share) for h in first))
    return tuple(torch.cat(both) for both in zip(first, again, strict=True))


def gru(x_TMB3H: Tensor, w_MH3H: Tensor, bias_M1H: Tensor, h0_MBH: Tensor) -> Tensor:
    """Hidden states of shape (T, M, B, H) of M GRUs.

    `x_TMB3H`: input parts of the gates r, z and of the candidate n, with all biases but one; `w_MH3H`: recurrent weights of
    r, z, n; `bias_M1H`: recurrent bias of the candidate; `h0_MBH`: state before the first step. First derivatives only.
    """
    if not torch.is_grad_enabled():
        return _gru_states(x_TMB3H, w_MH3H, bias_M1H, h0_MBH, kept_steps=1)[0][1:]
    states: Tensor = _GRU.apply(x_TMB3H, w_MH3H, bias_M1H, h0_MBH)  # type: ignore[no-untyped-call]  # torch's own
    return states


def rnn(x_TMBH: Tensor, w_MHH: Tensor, h0_MBH: Tensor, *, relu: bool = False) -> Tensor:
    """Hidden states (T, M, B, H) of M tanh (or relu) RNNs; `x_TMBH`: input part with both biases. First derivatives only."""
    states: Tensor = _RNN.apply(x_TMBH, w_MHH, h0_MBH, relu)  # type: ignore[no-untyped-call]  # torch's own
    return states


def ugrnn(x_TMB2H: Tensor, w_MH2H: Tensor, h0_MBH: Tensor) -> Tensor:
    """Hidden states (T, M, B, H) of M update-gate RNNs, gates g | c; `x_TMB2H`: input part with both biases. First derivatives only."""
    states: Tensor = _UGRNN.apply(x_TMB2H, w_MH2H, h0_MBH)  # type: ignore[no-untyped-call]  # torch's own
    return states


def lstm(x_TMB4H: Tensor, w_MH4H: Tensor, h0_MBH: Tensor, c0_MBH: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states and cell states (T, M, B, H) of M LSTMs, gates i | f | g | o; `x_TMB4H`: input part with both biases.
    First derivatives only."""
    states: tuple[Tensor, Tensor] = _LSTM.apply(x_TMB4H, w_MH4H, h0_MBH, c0_MBH)  # type: ignore[no-untyped-call]  # torch's own
    return states


def gru_step(x_MB3H: Tensor, w_MH3H: Tensor, bias_M1H: Tensor, h_MBH: Tensor) -> Tensor:
    """One step of `gru` in plain autograd."""
    hidden = h_MBH.shape[-1]
    x_rz, x_n = x_MB3H.split([2 * hidden, hidden], dim=-1)
    r, z = torch.sigmoid(x_rz + h_MBH @ w_MH3H[..., : 2 * hidden]).split(hidden, dim=-1)
    n = torch.tanh(x_n + r * (h_MBH @ w_MH3H[..., 2 * hidden :] + bias_M1H))
    h: Tensor = (1 - z) * n + z * h_MBH
    return h


def gru_reference(x_TMB3H: Tensor, w_MH3H: Tensor, bias_M1H: Tensor, h0_MBH: Tensor) -> Tensor:
    """The oracle of `gru`."""
    h, states = h0_MBH, []
    for x in x_TMB3H.unbind():
        h = gru_step(x, w_MH3H, bias_M1H, h)
        states.append(h)
    return torch.stack(states)


def rnn_reference(x_TMBH: Tensor, w_MHH: Tensor, h0_MBH: Tensor, *, relu: bool = False) -> Tensor:
    """The oracle of `rnn`."""
    h, states = h0_MBH, []
    for x in x_TMBH.unbind():
        a = x + h @ w_MHH
        h = a.relu() if relu else a.tanh()
        states.append(h)
    return torch.stack(states)


def ugrnn_reference(x_TMB2H: Tensor, w_MH2H: Tensor, h0_MBH: Tensor) -> Tensor:
    """The oracle of `ugrnn`."""
    h, states = h0_MBH, []
    for x in x_TMB2H.unbind():
        g, c = (x + h @ w_MH2H).chunk(2, dim=-1)
        g = g.sigmoid()
        h = g * h + (1 - g) * c.tanh()
        states.append(h)
    return torch.stack(states)


def lstm_reference(x_TMB4H: Tensor, w_MH4H: Tensor, h0_MBH: Tensor, c0_MBH: Tensor) -> tuple[Tensor, Tensor]:
    """The oracle of `lstm`."""
    h, c, states, cells = h0_MBH, c0_MBH, [], []
    for x in x_TMB4H.unbind():
        i, f, g, o = (x + h @ w_MH4H).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        states.append(h)
        cells.append(c)
    return torch.stack(states), torch.stack(cells)
