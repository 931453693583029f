"""Sizes, loss and training of a meta-model."""

from dataclasses import dataclass

from dynamo_dist.errors import InputError

HIDDEN_SCALES = ("variance", "dim", "none")


@dataclass(frozen=True, kw_only=True)
class MetaModelConfig:
    """Everything that determines a trained meta-model, given the population."""

    # Embedding dimensions D.
    dimensions: int = 4
    # Hidden units K of the meta-model.
    hidden: int = 64
    # Features of the meta-model's own token embedding.
    embedding: int = 16
    # False: theta stays 0 for all networks. The control: what the private state maps reach alone.
    use_theta: bool = True

    # Weight of the output term of the loss against the hidden term.
    output_weight: float = 1.0
    # What the squared hidden error is divided by: H_n * variance of the unit, H_n, or nothing.
    hidden_scale: str = "variance"
    # First time step that counts in the hidden term.
    burn_in: int = 0

    steps: int = 1500
    # Sequences per step; every network sees all of them.
    batch: int = 16
    learning_rate: float = 5e-3
    # Decay of theta per unit of learning rate (decoupled).
    theta_decay: float = 1e-2
    # Norm to which the gradient of the shared parameters is clipped, and that of each network's own.
    clip: float = 1.0
    seed: int = 0
    # A checkpoint every so many steps, and after the last.
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        for field in ("dimensions", "hidden", "embedding", "steps", "batch", "learning_rate", "clip", "checkpoint_every"):
            if not getattr(self, field) > 0:
                raise InputError(f"MetaModelConfig.{field}={getattr(self, field)}: expected a positive number")
        if self.hidden_scale not in HIDDEN_SCALES:
            raise InputError(f"MetaModelConfig.hidden_scale={self.hidden_scale!r}: expected one of {', '.join(HIDDEN_SCALES)}")
        if self.output_weight < 0 or self.theta_decay < 0 or self.burn_in < 0:
            raise InputError("MetaModelConfig: output_weight, theta_decay and burn_in must not be negative")
