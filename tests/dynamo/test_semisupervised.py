"""theta on few labels: derivatives against autograd, minima against scipy, many starts against one, and no test label anywhere."""

import copy
import dataclasses
import json
from functools import lru_cache

import numpy as np
import pytest
import torch
from random_population import make_population, spec
from scipy.optimize import minimize
from small_meta import train_meta
from small_population import make_specs

from dynamo_dist import InputError, MetaModel
from dynamo_dist.analysis import semisupervised
from dynamo_dist.analysis.optimise import PULLS, Objective, minimise, optimise
from dynamo_dist.analysis.semisupervised import METHODS
from dynamo_dist.analysis.students import distilled, from_scratch
from dynamo_dist.analysis.tasks import task_of
from dynamo_dist.data.attractors import SineTask
from dynamo_dist.data.tasks import make


@pytest.fixture(scope="module", params=["sequences", "images"])
def objective(request, sequence_meta, image_meta):
    meta, target = (sequence_meta, "perfect") if request.param == "sequences" else (image_meta, "label")
    task = task_of(meta, target=target)
    return Objective(meta, task, task.dataset.base.select(torch.arange(24)))


def problem(objective, starts=5):
    """Starts, weights and pulls that all differ."""
    generator = torch.Generator().manual_seed(0)
    theta = objective.mean_D + 0.3 * torch.randn(starts, len(objective.mean_D), generator=generator, dtype=torch.float64)
    weight = torch.rand(starts, len(objective.examples), generator=generator, dtype=torch.float64)
    return theta, weight / weight.sum(dim=1, keepdim=True), torch.linspace(0.01, 0.1, starts, dtype=torch.float64)


@lru_cache
def double(meta):
    """Its dynamics in float64."""
    return copy.deepcopy(meta.dynamics).double()


def plain_loss(objective, theta_D, weight_N, pull):
    """What is minimised, by torch's cross-entropy and the meta-model itself."""
    part, task = objective.examples, objective.task
    inputs = objective.meta.interface.inputs(task.data, part.inputs, torch.float64)
    _, out = double(objective.meta)(theta_D[None], inputs, part.lengths_N)
    loss = torch.nn.functional.cross_entropy(out[0, :, : task.output.size], part.targets[task.target], reduction="none")
    centred = torch.from_numpy(np.cov(objective.meta.embedding.T, bias=True))
    covariance = centred + 1e-3 * centred.diagonal().mean() * torch.eye(len(centred), dtype=torch.float64)
    away = theta_D - torch.from_numpy(objective.meta.embedding.mean(axis=0))
    return (weight_N * loss).sum() + pull / 2 * away @ torch.linalg.solve(covariance, away)


def test_value_and_derivatives_are_those_of_autograd(objective):
    theta, weight, pull = problem(objective)
    value, gradient, logits = objective.value(theta, weight, pull)
    assert torch.equal(logits, objective.logits(theta))
    for p in range(len(theta)):
        own = theta[p].clone().requires_grad_()
        loss = plain_loss(objective, own, weight[p], pull[p])
        assert float(value[p]) == pytest.approx(float(loss.detach()), rel=1e-5)
        (expected,) = torch.autograd.grad(loss, own)
        assert torch.allclose(gradient[p], expected, rtol=1e-3, atol=1e-5)
    part = objective.examples
    inputs = objective.meta.interface.inputs(objective.task.data, part.inputs, torch.float64)

    def outputs(theta_D):
        return double(objective.meta)(theta_D[None], inputs, part.lengths_N)[1][0, :, : objective.task.output.size]

    j_NCD = torch.autograd.functional.jacobian(outputs, theta[0])
    p_NC = outputs(theta[0]).softmax(dim=-1)
    expected = pull[0] * objective.precision_DD
    for weight_1, p_C, j_CD in zip(weight[0], p_NC, j_NCD, strict=True):
        expected = expected + weight_1 * j_CD.T @ (torch.diag(p_C) - torch.outer(p_C, p_C)) @ j_CD
    jacobian = objective.jacobian(theta, logits)
    # Pieces of relus begin within the difference.
    assert (jacobian[0] - j_NCD.permute(2, 0, 1)).norm() < 0.05 * j_NCD.norm()
    curvature = objective.curvature(jacobian, logits, weight, pull)
    assert (curvature[0] - expected).norm() < 0.02 * expected.norm()


def test_many_starts_are_one_start_at_a_time(objective):
    theta, weight, pull = problem(objective)
    found = minimise(objective, theta, weight, pull)
    for p in range(len(theta)):
        alone = minimise(objective, theta[p : p + 1], weight[p : p + 1], pull[p : p + 1])
        assert torch.allclose(found.theta_PD[p], alone.theta_PD[0], atol=1e-5)
        assert float(found.value_P[p]) == pytest.approx(float(alone.value_P), rel=1e-6)


def test_corrected_derivatives_lead_where_exact_ones_do(objective):
    theta, weight, pull = problem(objective)
    fast, slow = (minimise(objective, theta, weight, pull, secant=secant) for secant in (True, False))
    # Of pieces of relus: one start of the images ends at 2.013 and at 2.011, which are both minima.
    assert ((fast.value_P - slow.value_P).abs() < 1e-4).sum() >= 4 and fast.value_P.mean() < slow.value_P.mean() + 1e-3
    # What it hands on is what holds where it ended.
    assert torch.allclose(fast.logits_PNC, objective.logits(fast.theta_PD), atol=1e-5)
    again = minimise(objective, fast.theta_PD, weight, pull, jacobian_PDNC=fast.jacobian_PDNC)
    assert (again.value_P <= fast.value_P + 1e-6).all()


def test_minima_are_those_of_scipy(objective):
    theta, weight, pull = problem(objective, starts=3)
    ends = minimise(objective, theta, weight, pull)
    found, value = ends.theta_PD, ends.value_P
    assert (value < objective.value(theta, weight, pull)[0]).all()
    for p in range(len(theta)):

        def loss(x, p=p):
            own = torch.from_numpy(x).requires_grad_()
            value = plain_loss(objective, own, weight[p], pull[p])
            return float(value.detach()), torch.autograd.grad(value, own)[0].numpy()

        # scipy, started where ours ends, finds nothing below that matters.
        assert float(value[p]) <= minimize(loss, found[p].numpy(), jac=True, method="BFGS").fun + 1e-4


def logits(objective, starts):
    return objective.logits(torch.from_numpy(np.stack([theta for _, theta in starts])))


def test_the_start_and_the_pull_are_chosen_by_the_labels(sequence_meta):
    task = task_of(sequence_meta, target="perfect")
    objective = Objective(sequence_meta, task, task.dataset.base.select(torch.arange(60)))
    starts = list(zip(sequence_meta.network_ids, sequence_meta.embedding, strict=True))
    found = optimise(objective, starts, logits(objective, starts))
    theta = torch.from_numpy(found.theta)[None]
    assert found.loss == pytest.approx(float(objective.losses(objective.logits(theta)).mean()), rel=1e-4)
    count, loss_SN = 60, objective.losses(logits(objective, starts))

    def slow(kept_N):
        """Of every pull where it ends: one search at a time, J anew at every step."""
        weight, ends = (kept_N / kept_N.sum()).double()[None], {}
        start, theta = starts[int((weight[0] @ loss_SN.T).argmin())]
        theta = torch.from_numpy(theta)[None]
        for pull in PULLS:
            end = minimise(objective, theta, weight, torch.tensor([pull / int(kept_N.sum())], dtype=torch.float64), secant=False)
            theta = end.theta_PD
            ends[pull] = (float(end.value_P), start, theta)
        return ends

    folds = [torch.arange(count) % 3 != fold for fold in range(3)]
    held_out = dict.fromkeys(PULLS, 0.0)
    for kept in folds:
        for pull, (_, _, theta_1D) in slow(kept).items():
            held_out[pull] += float(objective.losses(objective.logits(theta_1D))[0, ~kept].sum()) / count
    assert found.pull == min(held_out, key=held_out.get)
    assert found.held_out_loss == pytest.approx(held_out[found.pull], rel=0.01)
    value, start, theta_1D = slow(torch.ones(count, dtype=torch.bool))[found.pull]
    assert found.start == start
    strength = torch.tensor([found.pull / count], dtype=torch.float64)
    ours, _, _ = objective.value(theta, torch.full((1, count), 1 / count, dtype=torch.float64), strength)
    assert float(ours) == pytest.approx(value, abs=1e-4)


def test_a_network_of_the_family_is_found_from_its_answers(sequence_meta, population):
    """Labels drawn from what the meta-model answers at a vector that is nobody's."""
    planted = np.array([8.0, -6.0, 4.0])
    task = task_of(sequence_meta, target="perfect")

    def log_p(theta, part):
        return sequence_meta.emulate(theta, part.inputs, part.lengths_N)[1].double().log_softmax(-1)

    base, test = population.data.base, population.data.test
    labels = torch.multinomial(log_p(planted, base).exp(), 1, generator=torch.Generator().manual_seed(0))[:, 0]
    starts = list(zip(sequence_meta.network_ids, sequence_meta.embedding, strict=True))
    objective = Objective(sequence_meta, task, dataclasses.replace(base, targets={"perfect": labels}))
    found = optimise(objective, starts, logits(objective, starts))

    def divergence(theta):
        true = log_p(planted, test)
        return float((true.exp() * (true - log_p(theta, test))).sum(dim=-1).mean())

    # 2 N times the divergence at the maximum of the likelihood is about a chi-square number with 3 degrees of freedom, 20 one in 5,000 times.
    assert 2 * len(base) * divergence(found.theta) < 20
    assert divergence(found.theta) < min(divergence(theta) for _, theta in starts) / 3


@pytest.fixture(scope="module")
def found(sequence_meta):
    return semisupervised(sequence_meta, target="leaky", labels=60, fractions=(0.25, 1.0), draws=2)


def test_scores_are_those_of_plain_modules(found, sequence_meta, population):
    test = population.data.test
    assert found.ids == ("leaky gru #0", "leaky gru #1")

    def accuracy(logits):
        return float((logits.argmax(-1) == test.targets["leaky"]).double().mean())

    with torch.no_grad():
        logits = torch.stack([population.network(id)(test.inputs, test.lengths_N)[1] for id in found.ids])
    assert found.base.tolist() == pytest.approx([accuracy(own) for own in logits])
    mean = sequence_meta.embedding[[sequence_meta.network_ids.index(id) for id in found.ids]].mean(axis=0)
    assert [(draw.draw, draw.fraction, draw.labels) for draw in found.draws] == [(0, 0.25, 15), (0, 1.0, 60), (1, 0.25, 15), (1, 1.0, 60)]
    for draw in found.draws:
        assert list(draw.scores) == list(METHODS)
        assert draw.scores["base_mean"] == pytest.approx(found.base.mean())
        assert draw.scores["base_best"] == pytest.approx(found.base[found.ids.index(draw.best_network)])
        assert draw.scores["ensemble"] == pytest.approx(accuracy(logits.double().mean(dim=0)))
        for method, theta in (("mean_theta", mean), ("optimised_theta", draw.optimised.theta)):
            assert draw.scores[method] == pytest.approx(accuracy(sequence_meta.emulate(theta, test.inputs, test.lengths_N)[1]))
    assert found.architecture == "gru-7" and found.without_training == ""


def test_no_test_label_chooses(found, sequence_meta):
    other = MetaModel.open(sequence_meta.path)
    data = other.population.data
    wrong = dataclasses.replace(data.test, targets={name: 1 - labels for name, labels in data.test.targets.items()})
    other.population.datasets["data"] = dataclasses.replace(data, test=wrong)
    again = semisupervised(other, target="leaky", labels=60, fractions=(0.25, 1.0), draws=2)
    for ours, theirs in zip(again.draws, found.draws, strict=True):
        assert (ours.optimised.theta == theirs.optimised.theta).all()
        assert (ours.best_network, ours.best_start) == (theirs.best_network, theirs.best_start)
        assert all(ours.scores[method] == pytest.approx(1 - theirs.scores[method]) for method in METHODS)


def test_summary_and_tables_say_the_same(found):
    summary, tables = found.summary(), found.tables()
    json.dumps(summary, allow_nan=False)
    lines = tables["semisupervised"].to_pylist()
    assert len(lines) == 4 * len(METHODS)
    for fraction, scores in summary["fractions"].items():
        for method in METHODS:
            own = [line["score"] for line in lines if (f"{line['fraction']:g}", line["method"]) == (fraction, method)]
            assert scores[method]["mean"] == pytest.approx(np.mean(own)) and scores[method]["sd"] == pytest.approx(np.std(own))
    assert tables["semisupervised_theta"]["theta"].to_pylist() == [draw.optimised.theta.tolist() for draw in found.draws]


def test_images(image_meta):
    found = semisupervised(image_meta, labels=100, fractions=(0.4,), draws=1)
    (draw,) = found.draws
    assert draw.labels == 40 and all(0 <= score <= 1 for score in draw.scores.values())


def test_students_of_one_stack_are_students_alone(population):
    data, spec = population.data, make_specs(population.data, batch=16, epochs=2)[0]
    few = data.base.select(torch.arange(20))
    logits = torch.randn(len(data.meta), 2, generator=torch.Generator().manual_seed(0))
    for train in (lambda seeds: from_scratch(spec, few, data.outputs["perfect"], seeds), lambda seeds: distilled(spec, data.meta, logits, seeds)):
        both, second = train([3, 4]), train([4])
        for name, tensor in both.tensors.items():
            assert torch.allclose(tensor[1], second.tensors[name][0], atol=1e-5)
            assert not torch.equal(tensor[0], tensor[1])


def test_a_student_learns_what_the_ensemble_answers(population):
    data, spec = population.data, make_specs(population.data, epochs=40)[0]
    with torch.no_grad():
        teacher = population.network("perfect gru #0")
        logits, wanted = (teacher(part.inputs, part.lengths_N)[1] for part in (data.meta, data.test))
    student = distilled(spec, data.meta, logits, [11]).network(0)
    with torch.no_grad():
        answers = student(data.test.inputs, data.test.lengths_N)[1]
    assert (answers.argmax(-1) == wanted.argmax(-1)).double().mean() > 0.8


def test_what_cannot_be_done_is_refused(sequence_meta, sequence_control, image_meta, tmp_path):
    def refused(meta, sentence, **options):
        with pytest.raises(InputError, match=sentence):
            semisupervised(meta, **options)

    refused(sequence_meta, "fits several tasks")
    refused(sequence_meta, "labels=500, draws=3: expected 1 to 400 labels", target="leaky", labels=500)
    refused(sequence_meta, "at least one draw", target="leaky", draws=0)
    refused(sequence_meta, "0.1 of 20 labels is 2, and cross-validation needs 3", target="leaky", labels=20)
    refused(sequence_meta, "fractions: 1.5 is not a share", target="leaky", fractions=(1.5,))
    refused(image_meta, "0.1 of 60 labels leaves class . without any", labels=60)
    refused(sequence_control, "all vectors are the same", target="leaky")
    sine = make(SineTask(base=40, meta=40, test=20))
    values = make_population(tmp_path / "values", [spec(f"#{n}", sine) for n in range(3)], sine)
    refused(train_meta(values, tmp_path / "meta", steps=2), "is not one class per input")
