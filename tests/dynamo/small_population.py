"""Specifications that tests train in seconds."""

from dynamo_dist.networks import Recurrent
from dynamo_dist.population import NetworkSpec


def make_specs(data, *, networks=2, samples=256, **fields):
    """Perfect and leaky GRUs and perfect vanilla RNNs of three widths in all."""
    specs = []
    for cell, hidden, labels in (("gru", 7, "perfect"), ("gru", 7, "leaky"), ("rnn", 9, "perfect")):
        architecture = Recurrent(cell=cell, hidden=hidden, features=5, vocabulary=data.vocabulary, outputs=2)
        for number in range(networks):
            specs.append(
                NetworkSpec(
                    id=f"{labels} {cell} #{number}", group=f"{labels} {cell}", computation=labels, architecture=architecture,
                    target=labels, seed=len(specs), samples=samples, **{"batch": 32, "epochs": 6, "learning_rate": 1e-2, **fields},
                )
            )  # fmt: skip
    return specs
