"""Token sequences with labels, in the three parts that every experiment uses.

    base   labelled: trains the base networks
    meta   without labels: trains the meta-model
    test   only measures

Legend: N sequences, T time steps.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, safe_open, save_file


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """N padded token sequences and their labels.

    `tokens_NT`: int64 ids, padded at the end with 0. `lengths_N`: int64, 1 <= length <= T.
    `labels`: by labelling (one population may hold networks that learned different labels of the same inputs), int64 of shape (N,).
    """

    tokens_NT: torch.Tensor
    lengths_N: torch.Tensor
    labels: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return self.tokens_NT.shape[0]

    def select(self, index: torch.Tensor) -> "Sequences":
        """The sequences with these indices, cut to the longest of them."""
        lengths = self.lengths_N[index]
        tokens = self.tokens_NT[index][:, : int(lengths.max())]
        return Sequences(tokens_NT=tokens, lengths_N=lengths, labels={name: y[index] for name, y in self.labels.items()})


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The three parts of a data set, its number of token ids and of output classes."""

    base: Sequences
    meta: Sequences
    test: Sequences
    vocabulary: int
    classes: int

    PARTS = ("base", "meta", "test")

    def save(self, path: Path) -> None:
        """Write one safetensors file; tokens as int32."""
        tensors = {}
        for part in self.PARTS:
            sequences: Sequences = getattr(self, part)
            tensors[f"{part}.tokens"] = sequences.tokens_NT.to(torch.int32).contiguous()
            tensors[f"{part}.lengths"] = sequences.lengths_N.to(torch.int32).contiguous()
            for name, labels in sequences.labels.items():
                tensors[f"{part}.labels.{name}"] = labels.to(torch.int32).contiguous()
        # One key: safetensors writes several in no fixed order, and the file's hash is the data's identity.
        save_file(tensors, path, metadata={"dataset": json.dumps({"vocabulary": self.vocabulary, "classes": self.classes})})

    @classmethod
    def open(cls, path: Path) -> "Dataset":
        """Read what `save` wrote."""
        tensors = {name: tensor.long() for name, tensor in load_file(path).items()}
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()["dataset"])
        parts = {}
        for part in cls.PARTS:
            prefix = f"{part}.labels."
            parts[part] = Sequences(
                tokens_NT=tensors[f"{part}.tokens"],
                lengths_N=tensors[f"{part}.lengths"],
                labels={name.removeprefix(prefix): y for name, y in tensors.items() if name.startswith(prefix)},
            )
        return cls(**metadata, **parts)
