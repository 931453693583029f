"""What one network of a population is."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from dynamo_dist.errors import InputError
from dynamo_dist.networks import Architecture
from dynamo_dist.networks.architecture import from_dict, to_dict


@dataclass(frozen=True, kw_only=True)
class NetworkSpec:
    """Everything that determines one trained network, given the data set."""

    # Unique name in the population.
    id: str
    # Networks made alike; the unit of averages and tables.
    group: str
    # What it computes, the truth that clusters are judged against: groups of several architectures may share it.
    computation: str
    architecture: Architecture
    # Which target of the data set it learns.
    target: str
    # Seed of its initial parameters and of the order of its data.
    seed: int
    # The first `samples` sequences of its own shuffle of the labelled part.
    samples: int
    batch: int = 64
    epochs: int = 1
    learning_rate: float = 3e-3
    # Norm to which its gradient is clipped.
    clip: float = 1.0

    def __post_init__(self) -> None:
        for field in ("samples", "batch", "epochs", "learning_rate", "clip"):
            if not getattr(self, field) > 0:
                raise InputError(f"network {self.id}: {field}={getattr(self, field)}: expected a positive number")
        if self.samples < self.batch:
            raise InputError(f"network {self.id}: batch={self.batch} is larger than its {self.samples} samples; use a smaller batch")

    @property
    def steps(self) -> int:
        """Training steps; an incomplete last batch of an epoch is left out."""
        return self.epochs * (self.samples // self.batch)

    def to_json(self) -> str:
        return json.dumps({**dataclasses.asdict(self), "architecture": to_dict(self.architecture)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "NetworkSpec":
        fields = json.loads(text)
        return cls(**{**fields, "architecture": from_dict(fields["architecture"])})


def check_specs(specs: Iterable[NetworkSpec], *, targets: Iterable[str], available: int) -> None:
    """Raise `InputError` for duplicate ids, unknown targets, and more samples than the data set has."""
    seen: set[str] = set()
    known = sorted(targets)
    for spec in specs:
        if spec.id in seen:
            raise InputError(f"two networks have the id {spec.id!r}: ids must be unique in a population")
        seen.add(spec.id)
        if spec.target not in known:
            raise InputError(f"network {spec.id}: target={spec.target!r} is not in the data set, which has: {', '.join(known)}")
        if spec.samples > available:
            raise InputError(f"network {spec.id}: samples={spec.samples}, but the labelled part has {available} sequences")


def digest(specs: Iterable[NetworkSpec], data: str) -> str:
    """Name of a chunk: a hash of its specs and of the data set, so that training it twice is harmless."""
    text = "\n".join([data, *(spec.to_json() for spec in specs)])
    return hashlib.sha256(text.encode()).hexdigest()[:20]
