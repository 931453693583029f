"""What networks must share to be stacked: their architecture, a frozen value that survives JSON."""

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import Any

from dynamo_dist.errors import InputError

CELLS = ("gru", "lstm", "ugrnn", "rnn", "rnn-relu")
# Blocks of a gate's width in the weights of a cell, in the order of torch's modules where torch has the cell.
GATES = {"gru": 3, "lstm": 4, "ugrnn": 2, "rnn": 1, "rnn-relu": 1}
RESNET_DEPTHS = (8, 20, 34)


def _positive(architecture: Any, *fields: str) -> None:
    for field in fields:
        value = getattr(architecture, field)
        if not (isinstance(value, int) and value >= 1):
            raise InputError(f"{type(architecture).__name__}.{field}={value!r}: expected a positive whole number")


@dataclass(frozen=True, kw_only=True)
class Recurrent:
    """One recurrent layer on token embeddings or on real-valued inputs, and a linear readout."""

    # "gru", "lstm", "ugrnn", "rnn" (tanh) or "rnn-relu".
    cell: str
    # Hidden units H.
    hidden: int
    # Output units: classes or values.
    outputs: int
    # Token ids, padding included; None: inputs are real-valued.
    vocabulary: int | None = None
    # Features I: of the token embedding, or of the real-valued inputs.
    features: int
    # The readout answers at every step, or at the last valid one.
    every_step: bool = False

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise InputError(f"Recurrent.cell={self.cell!r}: expected one of {', '.join(CELLS)}")
        _positive(self, "hidden", "outputs", "features", *(["vocabulary"] if self.vocabulary is not None else []))

    @property
    def label(self) -> str:
        """Short name for tables, for example `gru-32`."""
        return f"{self.cell}-{self.hidden}"

    @property
    def state(self) -> int:
        """Numbers in the state that the next step needs: H, and for an LSTM 2H, [h; c]."""
        return 2 * self.hidden if self.cell == "lstm" else self.hidden

    def operations(self, input_shape: tuple[int, ...]) -> int:
        """Multiply-adds of one step, relative cost for the plan."""
        return GATES[self.cell] * self.hidden * (self.hidden + self.features)

    def intermediate(self, shape: tuple[int, ...]) -> int:
        """Numbers that one input of this shape (without N) makes on its way."""
        return shape[0] * GATES[self.cell] * self.hidden


@dataclass(frozen=True, kw_only=True)
class Convolutional:
    """A CIFAR-style ResNet (He et al., arXiv 1512.03385, section 4.2: depth = 6n + 2, widths w, 2w, 4w; for depth 34 the 3-4-6-3
    blocks of the ImageNet network behind the same stem, widths w to 8w), or the small CNN: three convolutions of widths w, 2w, 4w
    with batch normalisation, each followed by pooling."""

    # "resnet" or "cnn".
    kind: str
    # Layers of a ResNet: 8, 20 or 34; the small CNN has no choice: 3.
    depth: int
    # Channels of the first stage.
    width: int
    # Channels of the images.
    channels: int
    # Output units: classes or values.
    outputs: int

    def __post_init__(self) -> None:
        if self.kind not in ("resnet", "cnn"):
            raise InputError(f"Convolutional.kind={self.kind!r}: expected resnet or cnn")
        depths = RESNET_DEPTHS if self.kind == "resnet" else (3,)
        if self.depth not in depths:
            raise InputError(f"Convolutional.depth={self.depth!r}: expected one of {', '.join(map(str, depths))} for kind={self.kind!r}")
        _positive(self, "width", "channels", "outputs")

    @property
    def label(self) -> str:
        """For example `resnet8-16`: depth, width."""
        return f"{self.kind}{self.depth}-{self.width}"

    def operations(self, input_shape: tuple[int, ...]) -> int:
        """Multiply-adds of one image, relative cost for the plan: every stage costs about the same."""
        _, rows, columns = input_shape
        return self.depth * 9 * self.width * self.width * rows * columns

    def intermediate(self, shape: tuple[int, ...]) -> int:
        """Numbers that the largest layer makes of one image of this shape."""
        return self.width * shape[-2] * shape[-1]


@dataclass(frozen=True, kw_only=True)
class Imported:
    """A trained network from elsewhere: an importable `torch.nn.Module` class and what its constructor takes."""

    # "package.module:Class", a subclass of torch.nn.Module that workers can import.
    module: str
    # Keyword arguments of the constructor, as JSON text.
    arguments: str
    # Names of the submodules whose outputs are the hidden trajectory, in this order.
    hidden: tuple[str, ...]
    # Output units: classes or values.
    outputs: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", (self.hidden,) if isinstance(self.hidden, str) else tuple(self.hidden))  # JSON has lists
        if ":" not in self.module or not self.hidden:
            raise InputError(f"Imported.module={self.module!r}, hidden={self.hidden}: expected 'package.module:Class' and layer names")
        if not isinstance(json.loads(self.arguments), dict):
            raise InputError(f"Imported.arguments={self.arguments!r}: expected an object of keyword arguments")
        _positive(self, "outputs")

    @property
    def label(self) -> str:
        return self.module.rpartition(":")[2]

    def operations(self, input_shape: tuple[int, ...]) -> int:
        """Unknown; such networks are not trained here."""
        return 1

    def intermediate(self, shape: tuple[int, ...]) -> int:
        """A guess: as many as a hundred times the input."""
        return 100 * math.prod(shape)


Architecture = Recurrent | Convolutional | Imported
_FAMILIES = {"recurrent": Recurrent, "convolutional": Convolutional, "imported": Imported}


def to_dict(architecture: Architecture) -> dict[str, Any]:
    """JSON values, the family first."""
    family = next(name for name, kind in _FAMILIES.items() if isinstance(architecture, kind))
    return {"family": family, **dataclasses.asdict(architecture)}


def from_dict(fields: dict[str, Any]) -> Architecture:
    """What `to_dict` made. Raises `InputError` for an unknown family or field."""
    fields = dict(fields)
    family = fields.pop("family", None)
    if family not in _FAMILIES:
        raise InputError(f"architecture family {family!r}: expected one of {', '.join(_FAMILIES)}")
    kind = _FAMILIES[family]
    known = {field.name for field in dataclasses.fields(kind)}
    for name in fields:
        if name not in known:
            raise InputError(f"architecture {family}: unknown field {name!r}; its fields are {', '.join(sorted(known))}")
    missing = [f.name for f in dataclasses.fields(kind) if f.default is dataclasses.MISSING and f.name not in fields]
    if missing:
        raise InputError(f"architecture {family}: the field {missing[0]!r} is missing")
    made: Architecture = kind(**fields)
    return made
