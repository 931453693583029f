"""Where the meta-model's token embedding starts: from what its networks do with each word.

A network's answer to a word is its state after that word alone. Over the networks of a population these answers are the rows of one wide
matrix, and its principal components are a table of word vectors that the meta-model would otherwise have to learn from rare words.

Networks of an IMDB population (12 GRU, LSTM and vanilla RNN, K = 128, E = 48, B = 12): hidden R^2 on held-out reviews after 100, 300 and 600
steps 0.46, 0.58 and 0.60, from a random table 0.08, 0.38 and 0.44 (one seed each).

Legend: W words, M networks, H units, E features of the embedding.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dynamo_dist.metamodel.config import MetaModelConfig
from dynamo_dist.metamodel.interface import Interface
from dynamo_dist.metamodel.loss import sequence_rows
from dynamo_dist.metamodel.shard import members, trajectory
from dynamo_dist.population import Population

# Networks of an alphabet that are asked, spread evenly over the population: more would hardly move the components.
NETWORKS = 32
# Words that are asked at a time.
_AT_ONCE = 4096


@torch.no_grad()
def word_vectors(population: Population, ids: Sequence[str], interface: Interface, config: MetaModelConfig) -> Tensor:
    """A row per token id of the joint alphabet, float64 (W, E): principal components of the networks' answers, each with mean square 1 over
    the words of the inputs without labels; what is left of E is 0.

    A function of the population and the configuration alone: every worker computes the same, however networks are sharded.
    """
    table = torch.zeros(interface.vocabulary, config.embedding, dtype=torch.float64)
    for first in sorted(set(interface.first_id.values())):
        names = sorted(name for name, own in interface.first_id.items() if own == first)
        own = [id for id in ids if population.spec(id).data in names]
        vocabulary = population.datasets[names[0]].vocabulary
        assert vocabulary is not None, "a data set of tokens has an alphabet"
        counts = torch.zeros(vocabulary, dtype=torch.float64)
        for name in names:
            part = population.datasets[name].meta
            valid = torch.arange(part.inputs.shape[1]) < part.steps_N[:, None]
            counts += torch.bincount(part.inputs[valid], minlength=vocabulary)
        asked = [own[k] for k in np.unique(np.linspace(0, len(own) - 1, min(NETWORKS, len(own))).round().astype(int))]
        vectors = _components(_answers(population, asked, vocabulary), counts / counts.sum(), config.embedding)
        table[first : first + vocabulary, : vectors.shape[1]] = vectors
    return table


def _answers(population: Population, ids: Sequence[str], vocabulary: int) -> Tensor:
    """States after each word alone, of all networks side by side, each network with mean square 1: float64 (W, M H)."""
    words_W1 = torch.arange(vocabulary)[:, None]
    answers = []
    for member in members(population, ids):
        networks = member.stack.networks.to(torch.float64)
        states = []
        for part in words_W1.split(_AT_ONCE):
            lengths = torch.ones(1, len(part), dtype=torch.int64)
            (stage,) = trajectory(networks(part[None], lengths)[0], lengths[0], networks.architecture.label)
            states.append(sequence_rows(stage))
        h_MWH = torch.cat(states, dim=1)
        h_MWH = h_MWH - h_MWH.mean(dim=1, keepdim=True)
        scale_M11 = h_MWH.square().mean(dim=(1, 2), keepdim=True).sqrt()
        # A network that answers all words alike, or not with numbers, says nothing of them.
        sound_M = torch.isfinite(scale_M11[:, 0, 0]) & (scale_M11[:, 0, 0] > 0)
        answers.append((h_MWH / scale_M11)[sound_M].permute(1, 0, 2).flatten(1))
    return torch.cat(answers, dim=1)


def _components(answers_WF: Tensor, frequency_W: Tensor, most: int) -> Tensor:
    """Scores of the principal components, words weighted by their frequency, each with mean square 1: (W, at most `most`)."""
    if not answers_WF.shape[1]:
        return answers_WF.new_zeros(len(answers_WF), 0)
    from sklearn.utils.extmath import randomized_svd  # here: it takes a second, and meta-models of other inputs do without

    centred = answers_WF - frequency_W @ answers_WF
    weighted = centred * frequency_W.sqrt()[:, None]
    _, values, vectors = randomized_svd(weighted.numpy(), min(most, *weighted.shape), n_iter=4, random_state=0)
    # What rounding makes of nothing is not a component.
    kept = int((values > values[0] * max(weighted.shape) * np.finfo(values.dtype).eps).sum())
    return centred @ torch.from_numpy(vectors[:kept].T / values[:kept])
