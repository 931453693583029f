"""What is iterated: M maps h -> F(h) of one state size, float64, each a recurrent network at a fixed input, with their Jacobians.

    gru     r, z = sigmoid(x + h w),  u = h w_n + b,  n = tanh(x_n + r u),  h' = (1 - z) n + z h
    rnn     h' = tanh(x + h w);  rnn-relu: relu in its place
    ugrnn   g = sigmoid(..),  c = tanh(..),  h' = g h + (1 - g) c
    lstm    state [h; c]:  c' = f c + i g,  h' = o tanh(c')

Points are rows, each with the map that it belongs to, so points of all maps go through in one batch, however many each has.

Legend: M maps, R rows (points), S points of each map, H numbers of the state, F input features, G = gates * units.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


class Maps(ABC):
    """M maps of H numbers."""

    count: int
    size: int

    @abstractmethod
    def step(self, h_RH: Tensor, m_R: Tensor) -> Tensor:
        """F(h), float64 (R, H); `m_R`: int64, the map of every row."""

    @abstractmethod
    def jacobian(self, h_RH: Tensor, m_R: Tensor) -> tuple[Tensor, Tensor]:
        """F(h) and dF_i/dh_j, (R, H) and (R, H, H) with the new state's i first."""

    def step_all(self, h_MSH: Tensor) -> Tensor:
        """F(h) of S points of every map."""
        m_R = torch.arange(self.count).repeat_interleave(h_MSH.shape[1])
        new_MSH: Tensor = self.step(h_MSH.flatten(0, 1), m_R).unflatten(0, h_MSH.shape[:2])
        return new_MSH

    def run(self, h_MSH: Tensor, steps: int) -> Tensor:
        """States after 1 to `steps` steps, (steps, M, S, H)."""
        states = h_MSH.new_empty(steps, *h_MSH.shape)
        for t in range(steps):
            h_MSH = states[t] = self.step_all(h_MSH)
        return states


class FunctionMaps(Maps):
    """Any function F(h_RH, m_R) whose rows do not depend on each other; Jacobians by `torch.func`."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor], *, count: int, size: int) -> None:
        self._function, self.count, self.size = function, count, size

    def step(self, h_RH: Tensor, m_R: Tensor) -> Tensor:
        with torch.no_grad():
            return self._function(h_RH, m_R)

    def jacobian(self, h_RH: Tensor, m_R: Tensor) -> tuple[Tensor, Tensor]:
        def summed(h: Tensor) -> tuple[Tensor, Tensor]:
            new = self._function(h, m_R)
            return new.sum(dim=0), new

        # Rows are independent: the Jacobian of their sum, (H, R, H), holds that of each.
        j_HRH, new_RH = torch.func.jacrev(summed, has_aux=True)(h_RH)
        return new_RH.detach(), j_HRH.transpose(0, 1).detach()


@dataclass(frozen=True, kw_only=True)
class Cells:
    """M recurrent cells before their input is fixed, float64, weights that multiply from the right.

    What all of them share has a leading axis of 1 in place of M.
    """

    # One of `networks.architecture.CELLS`.
    cell: str
    # (M, F, G), (M, G), (M, H, G) with H units: an LSTM has states of 2 H numbers.
    w_input: Tensor
    b_input: Tensor
    w_recurrent: Tensor
    # (M, H): of GRUs, the bias inside the reset gate.
    b_candidate: Tensor | None = None

    def at(self, x_MF: Tensor) -> "CellMaps":
        """The maps at a fixed input each."""
        return CellMaps(self, torch.baddbmm(self.b_input[:, None].expand(len(x_MF), 1, -1), x_MF[:, None], self._inputs(len(x_MF)))[:, 0])

    def _inputs(self, count: int) -> Tensor:
        return self.w_input.expand(count, -1, -1)


class CellMaps(Maps):
    """Recurrent cells with the input part of their gates given, `x_MG`; Jacobians in closed form."""

    def __init__(self, cells: Cells, x_MG: Tensor) -> None:
        self._cells, self._x = cells, x_MG
        self.count, units = len(x_MG), cells.w_recurrent.shape[1]
        self.size = 2 * units if cells.cell == "lstm" else units
        self._units = units
        advances: dict[str, _Advance] = {"gru": _gru, "lstm": _lstm, "ugrnn": _ugrnn, "rnn": _rnn, "rnn-relu": _rnn_relu}
        self._advance = advances[cells.cell]

    def _rows(self, m_R: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Of the maps of these rows: recurrent weights (R, H, G), or (1, H, G) where all have the same, input parts, bias."""
        w, b = self._cells.w_recurrent, self._cells.b_candidate
        if len(w) > 1:
            # Sorted rows of one map, the usual case in a search, need no copies of its weights.
            w = w[m_R[:1]] if len(m_R) and bool((m_R == m_R[0]).all()) else w[m_R]
        return w, self._x[m_R], b if b is None or len(b) == 1 else b[m_R]

    def _products(self, h_RH: Tensor, w: Tensor) -> Tensor:
        u_RH = h_RH[:, : self._units]
        return u_RH @ w[0] if len(w) == 1 else torch.bmm(u_RH[:, None], w)[:, 0]

    def step(self, h_RH: Tensor, m_R: Tensor) -> Tensor:
        w, x_RG, b = self._rows(m_R)
        return self._advance(h_RH, self._products(h_RH, w), x_RG, b)[0]

    def step_all(self, h_MSH: Tensor) -> Tensor:
        b = self._cells.b_candidate
        p_MSG = h_MSH[..., : self._units] @ self._cells.w_recurrent
        return self._advance(h_MSH, p_MSG, self._x[:, None], None if b is None else b[:, None])[0]

    def jacobian(self, h_RH: Tensor, m_R: Tensor) -> tuple[Tensor, Tensor]:
        w, x_RG, b = self._rows(m_R)
        new_RH, slopes = self._advance(h_RH, self._products(h_RH, w), x_RG, b)
        # Of every block of the new state: sum over gates of w_gate diag(slope), transposed, plus diagonals.
        gates = w.unflatten(2, (-1, self._units)).unbind(2)
        if self._cells.cell != "lstm":
            return new_RH, _scaled(gates, slopes.gates, slopes.diagonal).mT
        assert slopes.h_of_c is not None and slopes.diagonal is not None, "an LSTM has them"
        c_of_h = _scaled(gates[:3], slopes.gates[:3])
        h_of_h = torch.addcmul(gates[3] * slopes.gates[3][:, None], c_of_h, slopes.h_of_c[:, None])
        h_of_c, c_of_c = torch.diag_embed(slopes.h_of_c * slopes.diagonal), torch.diag_embed(slopes.diagonal)
        return new_RH, torch.cat([torch.cat([h_of_h, c_of_h], dim=2), torch.cat([h_of_c, c_of_c], dim=2)], dim=1).mT


@dataclass(frozen=True)
class _Slopes:
    """d new_i / d (h w_gate)_i of every gate, and d new_i / d h_i that does not go through the weights; of LSTMs both of the cell state
    but for the output gate's, and d h' / d c'."""

    gates: tuple[Tensor, ...]
    diagonal: Tensor | None = None
    h_of_c: Tensor | None = None


# Of states, their products with the recurrent weights, the input part of the gates and the bias of a GRU: the new states and their slopes.
_Advance = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, _Slopes]]


def _scaled(gates: tuple[Tensor, ...], slopes: tuple[Tensor, ...], diagonal: Tensor | None = None) -> Tensor:
    """Sum over gates of w (R or 1, H, H) with its columns scaled by (R, H), plus a diagonal: a transposed Jacobian (R, H, H)."""
    j_RHH = gates[0] * slopes[0][:, None]
    for w, slope in zip(gates[1:], slopes[1:], strict=True):
        j_RHH.addcmul_(w, slope[:, None])
    if diagonal is not None:
        j_RHH.diagonal(dim1=1, dim2=2).add_(diagonal)
    return j_RHH


def _gru(h: Tensor, p: Tensor, x: Tensor, b: Tensor | None) -> tuple[Tensor, _Slopes]:
    assert b is not None, "a GRU has a bias inside the reset gate"
    units = h.shape[-1]
    r, z = torch.sigmoid(p[..., : 2 * units] + x[..., : 2 * units]).chunk(2, dim=-1)
    u = p[..., 2 * units :] + b
    n = torch.tanh(x[..., 2 * units :] + r * u)
    inner = (1 - z) * (1 - n * n)
    return torch.lerp(n, h, z), _Slopes((inner * u * r * (1 - r), (h - n) * z * (1 - z), inner * r), z)


def _rnn(h: Tensor, p: Tensor, x: Tensor, b: Tensor | None) -> tuple[Tensor, _Slopes]:
    new = torch.tanh(p + x)
    return new, _Slopes((1 - new * new,))


def _rnn_relu(h: Tensor, p: Tensor, x: Tensor, b: Tensor | None) -> tuple[Tensor, _Slopes]:
    a = p + x
    return a.relu(), _Slopes(((a > 0).to(a.dtype),))


def _ugrnn(h: Tensor, p: Tensor, x: Tensor, b: Tensor | None) -> tuple[Tensor, _Slopes]:
    g, c = (p + x).chunk(2, dim=-1)
    g, c = g.sigmoid(), c.tanh()
    return torch.lerp(c, h, g), _Slopes(((h - c) * g * (1 - g), (1 - g) * (1 - c * c)), g)


def _lstm(h: Tensor, p: Tensor, x: Tensor, b: Tensor | None) -> tuple[Tensor, _Slopes]:
    c = h.chunk(2, dim=-1)[1]
    i, f, g, o = (p + x).chunk(4, dim=-1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    c_new = f * c + i * g
    t = c_new.tanh()
    slopes = (g * i * (1 - i), c * f * (1 - f), i * (1 - g * g), t * o * (1 - o))
    return torch.cat([o * t, c_new], dim=-1), _Slopes(slopes, f, o * (1 - t * t))
