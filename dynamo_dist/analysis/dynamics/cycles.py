"""Limit cycles: closed orbits that a map settles on at a fixed input, seen in long runs.

A map steps over its cycle in jumps, so a period need not be a whole number of steps: the orbit then never returns exactly, but its
points lie on one closed curve. Legend: M maps, S starts of each, T recorded steps, R runs, H numbers of the state.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamo_dist.analysis.dynamics.maps import Maps
from dynamo_dist.analysis.dynamics.points import clusters, spread

# Steps that are left out, and those that are recorded.
_SETTLE, _RECORD = 1000, 512
# An orbit is a cycle when its amplitude is this part of the spread of the starts or more, changes by less than 1 % over the record, and
# its last quarter lies on the curve of the first three within 2 % of the amplitude.
_SMALL, _STEADY, _CLOSED = 0.02, 0.01, 0.02
# Mean square of x(t + p) - x(t), relative to that of independent states, below which p is a return.
_RETURN = 0.2


@dataclass(frozen=True, kw_only=True)
class Cycle:
    """An orbit of a map that does not come to rest."""

    # Steps of one turn; NaN where nothing returns.
    period: float
    # Root mean square distance from the orbit's mean, in units of the spread of the starts; the same at the end of the record over that at
    # its beginning; root mean square distance of its last quarter from the curve of the first three, in units of the amplitude.
    amplitude: float
    drift: float
    closure: float
    # Whether it is a limit cycle by these three.
    closed: bool
    # Of the starts, the share that came to it.
    share: float
    # Its mean, (H,).
    mean: Tensor


def limit_cycles(maps: Maps, starts_MSH: Tensor, spread_M: Tensor | None = None) -> list[list[Cycle]]:
    """The orbits that do not come to rest, of every map, the closed ones and those reached most often first.

    `spread_M`: the unit of length, by default that of the starts. Unstable cycles are not seen.
    """
    spread_M = spread(starts_MSH) if spread_M is None else spread_M
    for _ in range(_SETTLE // 2):
        starts_MSH = maps.step_all(starts_MSH)
    moved_M = (maps.step_all(starts_MSH) - starts_MSH).norm(dim=2).amax(dim=1)
    # Where every run would take longer than the record to move by the smallest amplitude, there is no cycle.
    moving_M = moved_M * _RECORD > _SMALL * spread_M
    return [_orbits(maps, m, h_SH, float(spread_M[m])) if moving_M[m] else [] for m, h_SH in enumerate(starts_MSH)]


def _orbits(maps: Maps, m: int, h_SH: Tensor, scale: float) -> list[Cycle]:
    """Of one map: records of all would not fit into memory."""
    m_S, record = torch.full((len(h_SH),), m), []
    for t in range(_SETTLE - _SETTLE // 2 + _RECORD):
        h_SH = maps.step(h_SH, m_S)
        if t >= _SETTLE - _SETTLE // 2:
            record.append(h_SH)
    return _cycles(torch.stack(record, dim=1), scale)


def _cycles(x_STH: Tensor, scale: float) -> list[Cycle]:
    """Orbits of one map, runs on the same orbit together."""
    mean_SH = x_STH.mean(dim=1)
    amplitude = (x_STH - mean_SH[:, None]).square().sum(dim=2).mean(dim=1).sqrt() / scale
    moving = (amplitude >= _SMALL).nonzero()[:, 0]
    if not len(moving):
        return []
    # The mean of a record that is no whole number of turns is off by an amplitude over the turns.
    orbit = clusters(mean_SH[moving], torch.zeros_like(moving), 0.1 * amplitude[moving].max()[None] * scale)
    cycles = []
    for number in range(int(orbit.max()) + 1):
        runs = moving[orbit == number]
        cycles.append(_describe(x_STH[runs[0]], scale, len(runs) / len(x_STH)))
    return sorted(cycles, key=lambda cycle: (not cycle.closed, -cycle.share))


def _describe(x_TH: Tensor, scale: float, share: float) -> Cycle:
    x_TH = x_TH - x_TH.mean(dim=0)
    size = x_TH.square().sum(dim=1)
    amplitude, quarter = float(size.mean().sqrt()), len(x_TH) // 4
    drift = float((size[-quarter:].mean() / size[:quarter].mean()).sqrt())
    closure = _distance_to_curve(x_TH[-quarter:], x_TH[:-quarter]) / amplitude
    closed = abs(drift - 1) < _STEADY and closure < _CLOSED
    return Cycle(
        period=period(x_TH), amplitude=amplitude / scale, drift=drift, closure=closure, closed=closed, share=share, mean=x_TH.mean(dim=0)
    )


def period(x_TH: Tensor) -> float:
    """Steps of one turn, from how far x(t + p) is from x(t) on average: the first deep minimum over p, refined at its last multiple
    within half of the record. NaN where there is none."""
    x_TH = x_TH - x_TH.mean(dim=0)
    time = len(x_TH)
    spectrum = torch.fft.rfft(x_TH, n=2 * time, dim=0)
    product_T = torch.fft.irfft((spectrum * spectrum.conj()).sum(dim=1).real, n=2 * time)[:time]
    # Of |a - b|^2 = |a|^2 + |b|^2 - 2 ab the squares of the steps that have a partner.
    square = torch.cat([torch.zeros(1, dtype=x_TH.dtype), x_TH.square().sum(dim=1).cumsum(0)])
    lag = torch.arange(time // 2)
    away = (square[time - lag] + square[-1] - square[lag] - 2 * product_T[lag]) / (time - lag) / (2 * square[-1] / time)
    lowest = (away[1:-1] <= away[:-2]) & (away[1:-1] <= away[2:]) & (away[1:-1] < _RETURN)
    minima = lowest.nonzero()[:, 0] + 1
    if not len(minima):
        return math.nan
    turn = _vertex(away, int(minima[0]))
    for turns in range(2, int((len(lag) - 2) / turn) + 1):
        near = minima[(minima - turns * turn).abs().argmin()]
        if abs(float(near) - turns * turn) > 0.25 * turn:
            break
        turn = _vertex(away, int(near)) / turns
    return turn


def _vertex(y: Tensor, at: int) -> float:
    """Minimum of the parabola through three neighbours."""
    left, middle, right = (float(value) for value in y[at - 1 : at + 2])
    bend = left - 2 * middle + right
    return at + (0.5 * (left - right) / bend if bend > 0 else 0.0)


def _distance_to_curve(late_AH: Tensor, early_BH: Tensor) -> float:
    """Root mean square distance of points from the nearest of the chords between the 2 early points that are nearest to each."""
    distance = torch.cdist(late_AH, early_BH, compute_mode="donot_use_mm_for_euclid_dist")
    near = distance.topk(2, dim=1, largest=False).indices
    start, chord = early_BH[near[:, 0]], early_BH[near[:, 1]] - early_BH[near[:, 0]]
    along = (((late_AH - start) * chord).sum(dim=1) / chord.square().sum(dim=1).clamp(min=1e-300)).clamp(0, 1)
    return float((late_AH - start - along[:, None] * chord).square().sum(dim=1).mean().sqrt())
