"""The recurrences over time, stacked over networks, with gradients written out.

Autograd through a loop over T steps records a dozen nodes a step and sums the weight gradient step by step. Here the loop over
time does only what must be sequential; the factors of the gradient are formed for all steps at once, and the weight gradient is
one matrix product over T*B rows. `*_reference` are the same recurrences in plain autograd: the oracle.

Legend: T time, M networks, B batch (rows), H hidden units, G = gates * H. Weights multiply from the right: gates = h @ w.
"""

import torch
from torch import Tensor


def _rows(x_TMBF: Tensor) -> Tensor:
    """(T, M, B, F) -> (M, T*B, F): all the rows of a network together, for one product per network."""
    time, networks, batch, features = x_TMBF.shape
    return x_TMBF.transpose(0, 1).reshape(networks, time * batch, features)


def _gru_states(x_TMB3H, w_MH3H, bias_M1H, h0_MBH, *, kept_steps):
    """States with the initial one before them (T+1, M, B, H), and gates r|z, candidate n and q, its recurrent part before the reset
    gate, of the last `kept_steps` steps: all T for the gradient, 1 without (a fifth of the memory, so larger batches stay in cache)."""
    time, networks, batch, width = x_TMB3H.shape
    hidden = width // 3
    w_rz, w_n = w_MH3H[..., : 2 * hidden], w_MH3H[..., 2 * hidden :]
    bias = bias_M1H.expand(networks, batch, hidden)
    h = x_TMB3H.new_empty(time + 1, networks, batch, hidden)
    rz = x_TMB3H.new_empty(kept_steps, networks, batch, 2 * hidden)
    n, q = (x_TMB3H.new_empty(kept_steps, networks, batch, hidden) for _ in range(2))
    h[0] = h0_MBH
    x_rz, x_n = x_TMB3H[..., : 2 * hidden].unbind(), x_TMB3H[..., 2 * hidden :].unbind()
    rz_s, n_s, q_s, r_s, z_s = rz.unbind(), n.unbind(), q.unbind(), rz[..., :hidden].unbind(), rz[..., hidden:].unbind()
    states = h.unbind()
    for t in range(time):
        k = t % kept_steps
        torch.baddbmm(x_rz[t], states[t], w_rz, out=rz_s[k]).sigmoid_()
        torch.baddbmm(bias, states[t], w_n, out=q_s[k])
        torch.addcmul(x_n[t], r_s[k], q_s[k], out=n_s[k]).tanh_()
        torch.lerp(n_s[k], states[t], z_s[k], out=states[t + 1])
    return h, rz, n, q


class _GRU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_TMB3H, w_MH3H, bias_M1H, h0_MBH):
        h, rz, n, q = _gru_states(x_TMB3H, w_MH3H, bias_M1H, h0_MBH, kept_steps=x_TMB3H.shape[0])
        ctx.save_for_backward(w_MH3H, h, rz, n, q)
        return h[1:]

    @staticmethod
    def backward(ctx, grad_TMBH):
        w, h, rz, n, q = ctx.saved_tensors
        hidden = n.shape[-1]
        r, z = rz[..., :hidden], rz[..., hidden:]
        h_old = h[:-1]
        # d a_n = dh * to_n;  d a_z = dh * to_z;  d a_r = d a_n * to_r   (a: pre-activations of the gates)
        to_n = (1 - z).mul_(1 - n * n).unbind()
        to_z = (h_old - n).mul_(z).mul_(1 - z).unbind()
        to_r = (q * r).mul_(1 - r).unbind()
        d_x = torch.empty(*n.shape[:-1], 3 * hidden, dtype=n.dtype, device=n.device)  # d a_r, d a_z, d a_n
        d_q = torch.empty_like(n)
        d_rz = d_x[..., : 2 * hidden]
        d_r, d_z, d_n = (part.unbind() for part in d_x.split(hidden, dim=-1))
        d_rz_t, d_q_t, r_t, z_t, grad = d_rz.unbind(), d_q.unbind(), r.unbind(), z.unbind(), grad_TMBH.unbind()
        w_rz_T = w[..., : 2 * hidden].transpose(1, 2).contiguous()
        w_n_T = w[..., 2 * hidden :].transpose(1, 2).contiguous()
        carry = torch.zeros_like(n[0])
        for t in range(len(grad) - 1, -1, -1):
            dh = carry.add_(grad[t])
            torch.mul(dh, to_n[t], out=d_n[t])
            torch.mul(dh, to_z[t], out=d_z[t])
            torch.mul(d_n[t], to_r[t], out=d_r[t])
            torch.mul(d_n[t], r_t[t], out=d_q_t[t])
            dh.mul_(z_t[t]).baddbmm_(d_rz_t[t], w_rz_T).baddbmm_(d_q_t[t], w_n_T)
        rows_T = _rows(h_old).transpose(1, 2)
        d_w = torch.cat([torch.bmm(rows_T, _rows(d_rz)), torch.bmm(rows_T, _rows(d_q))], dim=-1)
        return d_x, d_w, d_q.sum(dim=(0, 2)).unsqueeze(1), carry


class _RNN(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x_TMBH, w_MHH, h0_MBH):
        h = x_TMBH.new_empty(x_TMBH.shape[0] + 1, *x_TMBH.shape[1:])
        h[0] = h0_MBH
        for x_t, h_old, h_new in zip(x_TMBH, h[:-1], h[1:], strict=True):
            torch.baddbmm(x_t, h_old, w_MHH, out=h_new).tanh_()
        ctx.save_for_backward(w_MHH, h)
        return h[1:]

    @staticmethod
    def backward(ctx, grad_TMBH):
        w, h = ctx.saved_tensors
        slope = 1 - h[1:] * h[1:]
        d_x = torch.empty_like(slope)
        w_T = w.transpose(1, 2).contiguous()
        carry = torch.zeros_like(slope[0])
        for t in range(slope.shape[0] - 1, -1, -1):
            torch.mul(carry.add_(grad_TMBH[t]), slope[t], out=d_x[t])
            carry = torch.bmm(d_x[t], w_T)
        return d_x, torch.bmm(_rows(h[:-1]).transpose(1, 2), _rows(d_x)), carry


def gru(x_TMB3H: Tensor, w_MH3H: Tensor, bias_M1H: Tensor, h0_MBH: Tensor) -> Tensor:
    """Hidden states of shape (T, M, B, H) of M GRUs.

    `x_TMB3H`: input parts of the gates r, z and of the candidate n, with all biases but one; `w_MH3H`: recurrent weights of
    r, z, n; `bias_M1H`: recurrent bias of the candidate; `h0_MBH`: state before the first step. First derivatives only.
    """
    if not torch.is_grad_enabled():
        return _gru_states(x_TMB3H, w_MH3H, bias_M1H, h0_MBH, kept_steps=1)[0][1:]
    return _GRU.apply(x_TMB3H, w_MH3H, bias_M1H, h0_MBH)


def rnn(x_TMBH: Tensor, w_MHH: Tensor, h0_MBH: Tensor) -> Tensor:
    """Hidden states (T, M, B, H) of M tanh RNNs; `x_TMBH`: input part with both biases. First derivatives only."""
    return _RNN.apply(x_TMBH, w_MHH, h0_MBH)


def gru_step(x_MB3H: Tensor, w_MH3H: Tensor, bias_M1H: Tensor, h_MBH: Tensor) -> Tensor:
    """One step of `gru` in plain autograd."""
    hidden = h_MBH.shape[-1]
    x_rz, x_n = x_MB3H.split([2 * hidden, hidden], dim=-1)
    r, z = torch.sigmoid(x_rz + h_MBH @ w_MH3H[..., : 2 * hidden]).split(hidden, dim=-1)
    n = torch.tanh(x_n + r * (h_MBH @ w_MH3H[..., 2 * hidden :] + bias_M1H))
    return (1 - z) * n + z * h_MBH


def gru_reference(x_TMB3H: Tensor, w_MH3H: Tensor, bias_M1H: Tensor, h0_MBH: Tensor) -> Tensor:
    """The oracle of `gru`."""
    h, states = h0_MBH, []
    for x in x_TMB3H.unbind():
        h = gru_step(x, w_MH3H, bias_M1H, h)
        states.append(h)
    return torch.stack(states)


def rnn_reference(x_TMBH: Tensor, w_MHH: Tensor, h0_MBH: Tensor) -> Tensor:
    """The oracle of `rnn`."""
    h, states = h0_MBH, []
    for x in x_TMBH.unbind():
        h = torch.tanh(x + h @ w_MHH)
        states.append(h)
    return torch.stack(states)
