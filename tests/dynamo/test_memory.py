"""Kernels of integrators: planted time constants, scikit-learn's regression, the meta-model beside its networks."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LinearRegression

from dynamo_dist import InputError, analysis
from dynamo_dist.analysis.memory import forgetting_rate, lagged, memories, memory


@pytest.mark.parametrize("tau", [1.5, 4.4814, 40.0])
def test_a_planted_time_constant_is_found(tau):
    rng = np.random.default_rng(0)
    scores_NT = rng.choice([-2, -1, 0, 1, 2], size=(4000, 12))
    state_N = (scores_NT * np.exp(-np.arange(12) / tau)).sum(axis=1)
    words = np.eye(5)[scores_NT + 2]
    of_values = memory(scores_NT[..., None].astype(float), state_N[:, None])
    # The same seen as words, answered by two logits; and by a third output that says nothing.
    of_words = memory(words, np.stack([-state_N, state_N, 0.1 * rng.standard_normal(4000)], axis=1))
    for found in (of_values, of_words):
        assert found.time_constant == pytest.approx(tau, rel=0.02) and found.linear > 0.99
    assert of_values.kernel == pytest.approx(np.exp(-np.arange(12) / tau), rel=1e-6)


def test_what_forgets_nothing_and_what_answers_nothing():
    rng = np.random.default_rng(0)
    x_NLF = rng.standard_normal((500, 6, 1))
    assert abs(memory(x_NLF, x_NLF.sum(axis=1)).rate) < 1e-6
    silent = memory(x_NLF, np.ones((500, 2)))
    assert silent.rate == 0 and silent.time_constant == np.inf and not silent.kernel.any()
    assert forgetting_rate(np.exp(0.3 * np.arange(6))) == pytest.approx(-0.3, abs=1e-6)


def test_networks_and_the_meta_model_beside_them(sequence_meta):
    meta, lags = sequence_meta, 3
    found = memories(meta, lags=lags)
    assert found.ids == meta.network_ids
    data = meta.population.datasets["data"]
    x_NLF = lagged(data, data.test, lags)
    for row, id in enumerate(found.ids):
        module = meta.population.network(id).double()
        with torch.no_grad():
            base = module(data.test.inputs, data.test.lengths_N)[1].numpy()
        at_theta = meta.emulate(meta.embedding[row], data.test.inputs, data.test.lengths_N)[1].double().numpy()
        for own, outputs in ((found.base[row], base), (found.meta[row], at_theta)):
            odds = outputs[:, 1] - outputs[:, 0]
            fit = LinearRegression().fit(x_NLF.reshape(len(x_NLF), -1), odds)
            assert own.linear == pytest.approx(fit.score(x_NLF.reshape(len(x_NLF), -1), odds), abs=1e-4)
            # One answer, so one row of coefficients: the kernel of a word is its coefficient less the mean over words.
            coefficients = fit.coef_.reshape(lags, -1)[:, 1:]
            coefficients = coefficients - coefficients.mean(axis=1, keepdims=True)
            expected = np.linalg.svd(coefficients)[0][:, 0]
            cosine = abs(expected @ own.kernel) / np.linalg.norm(own.kernel)
            assert cosine == pytest.approx(1, abs=1e-4)
    summary, table = found.summary(), found.tables()["memory"]
    assert set(summary) == {"perfect", "leaky"} and summary["leaky"]["networks"] == 2
    assert table["base_kernel"].to_pylist()[0] == found.base[0].kernel.tolist()


def test_wrong_requests_are_refused(sequence_meta, image_meta):
    with pytest.raises(InputError, match="read images"):
        analysis.memories(image_meta)
    with pytest.raises(InputError, match="has no network 'nobody'"):
        analysis.memories(sequence_meta, ["nobody"])
    data = sequence_meta.population.datasets["data"]
    few = data.test.select(torch.arange(150))
    with pytest.raises(InputError, match=r"need 180 test sequences of 3 steps or more; there are 150, the shortest of 15"):
        lagged(data, few, 16)
    assert lagged(data, data.test, 16).shape == (200, 3, 6)
