"""Inputs and targets, in the three parts that every experiment uses.

    base   labelled: trains the base networks
    meta   without labels: trains the meta-model
    test   only measures

Legend: N examples, T time steps, I input features, C classes, O output values.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from dynamo_dist.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Examples:
    """N inputs and what networks learn to answer.

    `inputs`, by shape and dtype: int64 (N, T) token ids, padded at the end with 0; float32 (N, T, I) real-valued sequences;
    uint8 (0 to 255) or float32 (N, channels, rows, columns) images.
    `lengths_N`: int64 valid steps, 1 <= length <= T; None for images.
    `targets`: by name (one population may hold networks that learned different targets of the same inputs).
    int64 (N,): a class, answered at the last valid step; int64 (N, T): a class at every step; float32 (N, O): values at the last
    valid step; float32 (N, T, O): values at every step. -1 and NaN mean: no answer is asked for here.
    """

    inputs: Tensor
    lengths_N: Tensor | None = None
    targets: dict[str, Tensor]

    def __len__(self) -> int:
        return self.inputs.shape[0]

    @property
    def steps_N(self) -> Tensor:
        """`lengths_N` of sequences, for those who are never given images."""
        assert self.lengths_N is not None, "images have no steps"
        return self.lengths_N

    def select(self, index: Tensor) -> "Examples":
        """The examples with these indices, of any shape `(...)`: inputs become `(..., T)` and so on, sequences cut to the longest.

        Images come as float32; bytes are scaled to 0..1.
        """
        inputs, time = self.inputs[index], self.inputs.shape[1]
        lengths = None
        if self.lengths_N is not None:
            lengths = self.lengths_N[index]
            time = int(lengths.max())
            inputs = inputs.narrow(index.dim(), 0, time)
        elif inputs.dtype == torch.uint8:
            inputs = inputs.float().div_(255)
        targets = {}
        for name, target in self.targets.items():
            cut = target[index]
            targets[name] = cut.narrow(index.dim(), 0, time) if _every_step(target) else cut
        return Examples(inputs=inputs, lengths_N=lengths, targets=targets)

    def batches(self, numbers: int) -> Iterator[Tensor]:
        """Indices of all examples, those of like length together (less padding), in batches of about 8 million intermediate numbers
        (32 MB), of which one example makes `numbers`.

        Larger batches are slower: every operation then goes through main memory (2.4 times at 250 sequences, 6 networks, K = 128).
        """
        order = torch.arange(len(self)) if self.lengths_N is None else torch.argsort(self.lengths_N, stable=True)
        yield from order.split(max(1, 8_000_000 // numbers))

    def to(self, device: torch.device) -> "Examples":
        """The same on a device."""
        lengths = None if self.lengths_N is None else self.lengths_N.to(device)
        return Examples(inputs=self.inputs.to(device), lengths_N=lengths, targets={k: y.to(device) for k, y in self.targets.items()})


def _every_step(target: Tensor) -> bool:
    return target.dim() == (3 if target.is_floating_point() else 2)


@dataclass(frozen=True, kw_only=True)
class Output:
    """What a network answers: one of `size` classes, or `size` real values; at the last valid step or at every step."""

    kind: str
    size: int
    every_step: bool = False


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The three parts of a data set."""

    base: Examples
    meta: Examples
    test: Examples
    # Token ids, padding included; None where inputs are not tokens.
    vocabulary: int | None = None
    # What is answered, by name of the target.
    outputs: dict[str, Output]

    PARTS = ("base", "meta", "test")

    def __post_init__(self) -> None:
        for part in self.PARTS:
            _check_part(part, getattr(self, part), self)
        parts = (self.base, self.meta, self.test)
        # Of images the channels count too; of sequences the steps do not.
        if len({(part.lengths_N is None, *part.inputs.shape[1 if part.lengths_N is None else 2 :]) for part in parts}) > 1:
            raise InputError("data: the parts base, meta and test have inputs of different shapes; they must be of one kind")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Of one input at one step: () for tokens, (I,) for real-valued sequences; of one image (channels, rows, columns)."""
        inputs = self.base.inputs
        return tuple(inputs.shape[1:]) if self.base.lengths_N is None else tuple(inputs.shape[2:])

    @property
    def kind(self) -> str:
        """`tokens`, `values` or `images`."""
        return "images" if self.base.lengths_N is None else "values" if self.base.inputs.dim() == 3 else "tokens"

    def save(self, path: Path) -> None:
        """Write one safetensors file; whole numbers as int32, bytes as they are."""
        tensors = {}
        for part in self.PARTS:
            examples: Examples = getattr(self, part)
            tensors[f"{part}.inputs"] = _compact(examples.inputs)
            if examples.lengths_N is not None:
                tensors[f"{part}.lengths"] = _compact(examples.lengths_N)
            for name, target in examples.targets.items():
                tensors[f"{part}.targets.{name}"] = _compact(target)
        about = {"vocabulary": self.vocabulary, "outputs": {name: dataclasses.asdict(output) for name, output in self.outputs.items()}}
        # One key: safetensors writes several in no fixed order, and the file's hash is the data's identity.
        save_file(tensors, path, metadata={"dataset": json.dumps(about)})

    @classmethod
    def open(cls, path: Path) -> "Dataset":
        """Read what `save` wrote."""
        tensors = {name: t.long() if t.dtype == torch.int32 else t for name, t in load_file(path).items()}
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["dataset"])
        parts = {}
        for part in cls.PARTS:
            prefix = f"{part}.targets."
            parts[part] = Examples(
                inputs=tensors[f"{part}.inputs"],
                lengths_N=tensors.get(f"{part}.lengths"),
                targets={name.removeprefix(prefix): y for name, y in tensors.items() if name.startswith(prefix)},
            )
        outputs = {name: Output(**output) for name, output in about["outputs"].items()}
        return cls(vocabulary=about["vocabulary"], outputs=outputs, **parts)


def _compact(tensor: Tensor) -> Tensor:
    return (tensor.to(torch.int32) if tensor.dtype == torch.int64 else tensor).contiguous()


def _check_part(part: str, examples: Examples, data: Dataset) -> None:
    """Raise `InputError` that names the part and the field unless inputs, lengths and targets fit together."""
    inputs, lengths, count = examples.inputs, examples.lengths_N, len(examples)
    if not count:
        raise InputError(f"data, part {part}: there are no examples")
    if lengths is None:
        if inputs.dim() != 4 or inputs.dtype not in (torch.uint8, torch.float32):
            raise InputError(
                f"data, part {part}: images of shape {tuple(inputs.shape)} and {inputs.dtype}: expected bytes or float32 "
                "(N, channels, rows, columns)"
            )
    elif data.vocabulary is not None:
        if inputs.dim() != 2 or inputs.dtype != torch.int64:
            raise InputError(f"data, part {part}: tokens of shape {tuple(inputs.shape)} and {inputs.dtype}: expected int64 (N, T)")
        low, high = int(inputs.min()), int(inputs.max())
        if low < 0 or high >= data.vocabulary:
            raise InputError(f"data, part {part}: token ids from {low} to {high}: expected 0 to {data.vocabulary - 1}")
    elif inputs.dim() != 3 or inputs.dtype != torch.float32:
        raise InputError(f"data, part {part}: sequences of shape {tuple(inputs.shape)} and {inputs.dtype}: expected float32 (N, T, I)")
    if lengths is not None and (len(lengths) != count or not 1 <= int(lengths.min()) <= int(lengths.max()) <= inputs.shape[1]):
        raise InputError(f"data, part {part}: lengths must be {count} numbers from 1 to {inputs.shape[1]}, one per sequence")
    if inputs.is_floating_point() and not bool(torch.isfinite(inputs).all()):
        row = int((~torch.isfinite(inputs)).flatten(1).any(dim=1).nonzero()[0])
        raise InputError(f"data, part {part}: inputs of example {row} are not all finite numbers")
    for name, output in data.outputs.items():
        if name not in examples.targets:
            raise InputError(f"data, part {part}: there is no target {name!r}; its targets are {', '.join(examples.targets)}")
        target = examples.targets[name]
        steps = (inputs.shape[1],) if output.every_step else ()
        shape = (count, *steps) if output.kind == "classes" else (count, *steps, output.size)
        dtype = torch.int64 if output.kind == "classes" else torch.float32
        if tuple(target.shape) != shape or target.dtype != dtype:
            raise InputError(
                f"data, part {part}: target {name!r} has shape {tuple(target.shape)} and {target.dtype}: expected {shape} and {dtype}"
            )
        if output.kind == "classes" and not -1 <= int(target.min()) <= int(target.max()) < output.size:
            raise InputError(
                f"data, part {part}: target {name!r} has classes from {int(target.min())} to {int(target.max())}: "
                f"expected 0 to {output.size - 1} (-1: not asked)"
            )
