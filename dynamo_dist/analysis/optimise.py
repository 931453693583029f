"""theta optimised on labelled examples, everything else of the meta-model as it is.

Minimised is the mean cross-entropy on the labels plus a pull to where the networks of the population lie:

    sum_n w_n ce(n) + pull / 2 (theta - mean)' precision (theta - mean)

with mean and precision of the embedding; pull = 1 / N is the logarithm of a Gaussian prior. theta has few dimensions D, so second order
is cheap: Levenberg-Marquardt steps with the generalised Gauss-Newton matrix J' (diag(p) - p p') J (Schraudolph, Neural Computation 14,
2002), damped in the metric of the embedding. The gradient is exact. J, which only scales the steps, takes D runs of the meta-model at
moved vectors, once; every step corrects it by what it does to the logits (Broyden, Mathematics of Computation 19, 1965). Taken anew
wherever a correction may have failed, it led to the same values (to 1.2e-4) in 2.3 times the time, for 40 and 100 images of digits (K = 48,
D = 8: 0.9 and 2.7 s on one core, folds and both pulls). Many starts go together, each with its own weights of the examples, so that the
folds of a cross-validation are more starts.

Legend: P starts, N labelled examples, C classes, D embedding dimensions, F folds and all labels together, S starts to choose from.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dynamo_dist.analysis.tasks import Task
from dynamo_dist.data import Examples
from dynamo_dist.metamodel import MetaModel

# How far theta is moved for J, in standard deviations of the embedding.
DIFFERENCE = 1e-2
STEPS = 60
# A start is done where its next step promises less than this, in nats a label: of 400 labels all together are worth 0.008.
TOLERANCE = 2e-5
# First damping, relative to the mean curvature.
DAMPING = 1.0
# Of the mean variance of the embedding: least variance of the prior in any direction.
RIDGE = 1e-3
# Parts of the labels of a cross-validation, and the pulls (times 1 / N) among which it chooses, the strongest first.
FOLDS, PULLS = 3, (1.0, 0.01)


class Objective:
    """The loss of theta on labelled examples; vectors, losses and derivatives in float64, the meta-model in its own precision."""

    def __init__(self, meta: MetaModel, task: Task, examples: Examples) -> None:
        self.meta, self.task, self.examples = meta, task, examples
        self.target_N = examples.targets[task.target]
        embedding = torch.from_numpy(meta.embedding)
        self.mean_D = embedding.mean(dim=0)
        covariance = (embedding - self.mean_D).T @ (embedding - self.mean_D) / len(embedding)
        variance = covariance.diagonal().mean()
        self.difference = DIFFERENCE * float(variance.sqrt())
        self.precision_DD = torch.linalg.inv(covariance + RIDGE * variance * torch.eye(len(covariance), dtype=torch.float64))

    def _parts(self, theta_PD: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Indices of examples, and the logits of every vector on them, (P, n, C)."""
        for index in self.meta.batches(self.examples, len(theta_PD)):
            part = self.examples.select(index)
            inputs = self.meta.interface.inputs(self.task.data, part.inputs, self.meta.dtype)
            _, out = self.meta.dynamics(theta_PD.to(self.meta.dtype), inputs, part.lengths_N)
            yield index, out[..., : self.task.output.size].double()

    @torch.no_grad()
    def logits(self, theta_PD: Tensor) -> Tensor:
        """Of every vector on every example, (P, N, C)."""
        logits = theta_PD.new_empty(len(theta_PD), len(self.examples), self.task.output.size)
        for index, part in self._parts(theta_PD):
            logits[:, index] = part
        return logits

    def losses(self, logits_PNC: Tensor, index: Tensor | slice = slice(None)) -> Tensor:
        """Cross-entropy of logits on all examples, or on those of `index`: (P, N)."""
        target_PN1 = self.target_N[index].expand(len(logits_PNC), -1)[..., None]
        return -logits_PNC.log_softmax(dim=-1).gather(-1, target_PN1)[..., 0]

    def value(self, theta_PD: Tensor, weight_PN: Tensor, pull_P: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is minimised (P,), its gradient (P, D), and the logits (P, N, C)."""
        away = theta_PD - self.mean_D
        gradient = pull_P[:, None] * (away @ self.precision_DD)
        value = (gradient * away).sum(dim=1) / 2
        logits = theta_PD.new_empty(len(theta_PD), len(self.examples), self.task.output.size)
        theta_PD = theta_PD.detach().requires_grad_()
        for index, part in self._parts(theta_PD):
            own = (weight_PN[:, index] * self.losses(part, index)).sum(dim=1)
            gradient = gradient + torch.autograd.grad(own.sum(), theta_PD)[0]
            value, logits[:, index] = value + own.detach(), part.detach()
        return value, gradient, logits

    def jacobian(self, theta_PD: Tensor, logits_PNC: Tensor) -> Tensor:
        """Derivatives of the logits by theta (P, D, N, C), from the logits at theta: D runs of the meta-model."""
        starts, dimensions = theta_PD.shape
        moved = theta_PD[:, None] + self.difference * torch.eye(dimensions, dtype=theta_PD.dtype)
        logits_PDNC: Tensor = self.logits(moved.flatten(0, 1)).unflatten(0, (starts, dimensions))
        return (logits_PDNC - logits_PNC[:, None]) / self.difference

    def curvature(self, jacobian_PDNC: Tensor, logits_PNC: Tensor, weight_PN: Tensor, pull_P: Tensor) -> Tensor:
        """The Gauss-Newton matrix (P, D, D)."""
        p_PNC = logits_PNC.softmax(dim=-1)
        centred = jacobian_PDNC - torch.einsum("pnc,pdnc->pdn", p_PNC, jacobian_PDNC)[..., None]
        weighted = centred * (weight_PN[..., None] * p_PNC)[:, None]
        matrix_PDD: Tensor = torch.einsum("pdnc,penc->pde", weighted, centred) + pull_P[:, None, None] * self.precision_DD
        return matrix_PDD


@dataclass(frozen=True, kw_only=True)
class Minima:
    """Where every start ended: theta (P, D), what is minimised (P,), the logits of all examples (P, N, C) and J (P, D, N, C) there."""

    theta_PD: Tensor
    value_P: Tensor
    logits_PNC: Tensor
    jacobian_PDNC: Tensor


def minimise(
    objective: Objective,
    start_PD: Tensor,
    weight_PN: Tensor,
    pull_P: Tensor,
    *,
    jacobian_PDNC: Tensor | None = None,
    secant: bool = True,
) -> Minima:
    """The objective minimised from every start, by itself. Never above where it started.

    `jacobian_PDNC`: J at the starts, if it is known; `secant`: steps correct J, else it is taken anew after each, the slow way.
    """
    theta, damping = start_PD.clone(), torch.full((len(start_PD),), DAMPING, dtype=torch.float64)
    value, gradient, logits = objective.value(theta, weight_PN, pull_P)
    jacobian = objective.jacobian(theta, logits) if jacobian_PDNC is None else jacobian_PDNC.clone()
    going = torch.arange(len(theta))
    covariance = torch.linalg.inv(objective.precision_DD)
    for _ in range(STEPS):
        curvature = objective.curvature(jacobian[going], logits[going], weight_PN[going], pull_P[going])
        # Mean curvature where the embedding has variance 1 in every direction: steps are limited in its own units.
        scale = damping[going] * (curvature * covariance).sum(dim=(1, 2)) / len(covariance)
        step = torch.linalg.solve(curvature + scale[:, None, None] * objective.precision_DD, gradient[going])
        promise = (gradient[going] * step).sum(dim=1) - torch.einsum("pd,pde,pe->p", step, curvature, step) / 2
        promising = promise > TOLERANCE
        going, step, promise = going[promising], step[promising], promise[promising]
        if not len(going):
            break
        found, slope, answers = objective.value(theta[going] - step, weight_PN[going], pull_P[going])
        if secant:
            # Also where the step is not taken: what it would have done is known.
            metric = step @ objective.precision_DD
            missed = answers - logits[going] + torch.einsum("pd,pdnc->pnc", step, jacobian[going])
            jacobian[going] -= (metric / (metric * step).sum(dim=1, keepdim=True))[:, :, None, None] * missed[:, None]
        gain = (value[going] - found) / promise
        better = gain > 0
        rows = going[better]
        theta[rows], value[rows], gradient[rows], logits[rows] = theta[rows] - step[better], found[better], slope[better], answers[better]
        damping[going] *= torch.where(gain > 0.75, 0.25, torch.where(gain > 0.25, 1.0, 8.0))
        if not secant and len(rows):
            jacobian[rows] = objective.jacobian(theta[rows], logits[rows])
    return Minima(theta_PD=theta, value_P=value, logits_PNC=logits, jacobian_PDNC=jacobian)


@dataclass(frozen=True, kw_only=True)
class Optimised:
    """theta (D,) found on the labels, the name of its start, the pull (times 1 / N) that was chosen, and the mean cross-entropy on the
    labels: held out of the folds under that pull, and of all of them at theta."""

    theta: np.ndarray
    start: str
    pull: float
    held_out_loss: float
    loss: float


def optimise(objective: Objective, starts: Sequence[tuple[str, np.ndarray]], logits_SNC: Tensor, *, secant: bool = True) -> Optimised:
    """theta from the best of these starts, names and vectors (D,). The labels alone decide: the strength of the pull by cross-validation,
    the start by its loss. Examples must be in an order of which every third is like the whole.

    `logits_SNC`: of every start on every example; `secant`: as in `minimise`. A weaker pull goes on from where a stronger one ended.
    """
    count = len(objective.examples)
    start_SD = torch.from_numpy(np.stack([theta for _, theta in starts]))
    kept_FN = torch.stack([torch.arange(count) % FOLDS != fold for fold in range(FOLDS)] + [torch.ones(count, dtype=torch.bool)]).double()
    count_F = kept_FN.sum(dim=1)
    weight_FN = kept_FN / count_F[:, None]
    # The start with the lowest loss, of every fold its own: what is held out of it has no part in its search.
    chosen_F = (weight_FN @ objective.losses(logits_SNC).T).argmin(dim=1)
    theta = start_SD[chosen_F]
    # Most folds choose the same start, and J does not depend on the weights.
    known, place_F = chosen_F.unique(return_inverse=True)
    jacobian = objective.jacobian(start_SD[known], logits_SNC[known])[place_F]
    found = []
    for pull in PULLS:
        ends = minimise(objective, theta, weight_FN, pull / count_F, jacobian_PDNC=jacobian, secant=secant)
        theta, jacobian = ends.theta_PD, ends.jacobian_PDNC
        loss_FN = objective.losses(ends.logits_PNC)
        found.append(
            Optimised(
                theta=theta[-1].numpy(),
                start=starts[int(chosen_F[-1])][0],
                pull=pull,
                held_out_loss=float((loss_FN * (1 - kept_FN)).sum() / count),
                loss=float(loss_FN[-1].mean()),
            )
        )
    return min(found, key=lambda one: one.held_out_loss)
