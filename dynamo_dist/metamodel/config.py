"""Sizes, loss and training of a meta-model."""

from dataclasses import dataclass

from dynamo_dist.errors import InputError

_CHOICES = {
    "conditioning": ("concat", "lowrank", "film"),
    "state_map": ("linear", "affine", "mlp"),
    "hidden_scale": ("variance", "dim", "none"),
    "output_scale": ("variance", "none"),
    "output_steps": ("own", "all"),
    "unlike_tasks": ("refuse", "pad"),
    "word_vectors": ("networks", "random"),
}


@dataclass(frozen=True, kw_only=True)
class MetaModelConfig:
    """Everything that determines a trained meta-model, given the population."""

    # Embedding dimensions D.
    dimensions: int = 4
    # Hidden units K of the meta-model; of a convolutional one, channels of its first stage.
    hidden: int = 64
    # Features of the meta-model's own token embedding.
    embedding: int = 16
    # Where that embedding starts: networks (what the base networks do with each word, see `words.py`) or random.
    word_vectors: str = "networks"
    # Residual blocks of every stage of a convolutional meta-model.
    blocks: int = 1
    # How theta enters the state update. concat: with the input; lowrank: it scales a correction of rank `rank` of the weights; film: it
    # scales and shifts the gates (recurrent) or the channels (convolutional).
    conditioning: str = "concat"
    rank: int = 8
    # V_n from meta states to base states: linear, affine, or mlp (one hidden layer of K tanh units).
    state_map: str = "affine"
    # False: theta stays 0 for all networks. The control: what the private state maps reach alone.
    use_theta: bool = True
    # Whether networks of different input features, alphabets or outputs may be in one population: refuse, or pad: inputs and outputs are
    # padded with zeros to the union, alphabets of different sizes put side by side, and each network answers for its own outputs alone.
    unlike_tasks: str = "refuse"

    # Weight of the output term of the loss against the hidden term.
    output_weight: float = 1.0
    # Weight of the conjugacy term: what the meta-model's state holds that the network's does not. Against dynamics beside the network's own
    # at the same theta, for those who look at fixed points.
    conjugacy_weight: float = 0.0
    # What the squared hidden error is divided by: H_n * variance of the unit, H_n, or nothing.
    hidden_scale: str = "variance"
    # At which steps outputs are compared: own (where the networks answer) or all (at every valid step, by the networks' own readout, also where
    # they are asked at the last one alone).
    output_steps: str = "own"
    # What the squared error of real-valued outputs is divided by: the variance of the network's own outputs, or nothing.
    output_scale: str = "variance"
    # Whether the states of the sequences of a batch are mixed at a random step, of base networks and meta-model alike: the dynamics is
    # learned between the visited states too, and its stable points are where those of the networks are. Of recurrent networks alone, whose
    # states are mapped without a bend: then what is mixed stays mapped.
    mix_states: bool = False
    # First time step that counts in the hidden term.
    burn_in: int = 0

    steps: int = 1500
    # Sequences or images per step, of every data set; every network sees all of its own.
    batch: int = 16
    learning_rate: float = 5e-3
    # Decay of theta per unit of learning rate (decoupled).
    theta_decay: float = 1e-2
    # Norm to which the gradient of the shared parameters is clipped, and that of each network's own.
    clip: float = 1.0
    seed: int = 0
    # A checkpoint every so many steps, and after the last. At each, the loss on held-out inputs is taken.
    checkpoint_every: int = 500
    # Share of the inputs without labels that no step uses: the checkpoint with the lowest loss on them is the one that is opened.
    held_out: float = 0.1
    # Checkpoints without a lower held-out loss after which training ends; 0: it goes to the last step.
    patience: int = 0

    def __post_init__(self) -> None:
        for field in ("dimensions", "hidden", "embedding", "blocks", "rank", "steps", "batch", "learning_rate", "clip", "checkpoint_every"):
            if not getattr(self, field) > 0:
                raise InputError(f"MetaModelConfig.{field}={getattr(self, field)}: expected a positive number")
        for field, choices in _CHOICES.items():
            if getattr(self, field) not in choices:
                raise InputError(f"MetaModelConfig.{field}={getattr(self, field)!r}: expected one of {', '.join(choices)}")
        if self.mix_states and self.state_map == "mlp":
            raise InputError("MetaModelConfig.mix_states=True: mixed states stay mapped under linear and affine state maps, not under mlp")
        for field in ("output_weight", "conjugacy_weight", "theta_decay", "burn_in", "patience"):
            if getattr(self, field) < 0:
                raise InputError(f"MetaModelConfig.{field}={getattr(self, field)}: must not be negative")
        if not 0 <= self.held_out < 1:
            raise InputError(f"MetaModelConfig.held_out={self.held_out}: expected a share from 0 to below 1")
