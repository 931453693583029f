"""What a meta-model reads and answers: the union over the data sets of its population."""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dynamo_dist.data import Dataset, Output
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel.config import MetaModelConfig


@dataclass(frozen=True, kw_only=True)
class Interface:
    """Sizes of the union. Where a kind of input does not occur, its size is 0."""

    # Token ids of all alphabets.
    vocabulary: int = 0
    # Features of real-valued sequences.
    features: int = 0
    # Channels of images.
    channels: int = 0
    # Width of the readout: the largest number of classes or values; a network answers with its own first ones.
    outputs: int
    # First id of each data set's alphabet among all ids.
    first_id: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def images(self) -> bool:
        return self.channels > 0

    @classmethod
    def of(cls, datasets: dict[str, Dataset], outputs: Iterable[tuple[str, Output]], config: MetaModelConfig) -> "Interface":
        """The union over these data sets and over what the networks answer, pairs (network id, output).

        Raises `InputError` where inputs or outputs differ and `config.unlike_tasks` does not say how they map.
        """
        outputs = list(outputs)
        kinds = {data.kind for data in datasets.values()}
        if "images" in kinds and len(kinds) > 1:
            raise InputError(f"data sets {_list(datasets)}: images and sequences have no meta-model in common; embed them apart")
        sizes: dict[str, dict[str, int]] = {
            "features": {name: data.input_shape[0] for name, data in datasets.items() if data.kind == "values"},
            "vocabulary": {name: data.vocabulary for name, data in datasets.items() if data.kind == "tokens" and data.vocabulary is not None},
            "channels": {name: data.input_shape[0] for name, data in datasets.items() if data.kind == "images"},
        }
        if config.unlike_tasks == "refuse":
            if len(kinds) > 1:
                raise InputError(f"data sets {_list(datasets)} hold tokens and real values{_HOW}")
            for what, by_name in sizes.items():
                if len(set(by_name.values())) > 1:
                    found = ", ".join(f"{name!r} {size}" for name, size in by_name.items())
                    raise InputError(f"data sets differ in {what} ({found}){_HOW}")
            answers: dict[tuple[str, int], str] = {}
            for id, output in outputs:
                answers.setdefault((output.kind, output.size), id)
            if len(answers) > 1:
                found = ", ".join(f"{id!r} {size} {kind}" for (kind, size), id in answers.items())
                raise InputError(f"networks answer with unlike outputs ({found}){_HOW}")
        first_id: dict[str, int] = {}
        end = 0
        # Alphabets of one size are one alphabet; others lie side by side.
        for size in dict.fromkeys(sizes["vocabulary"].values()):
            first_id |= {name: end for name, own in sizes["vocabulary"].items() if own == size}
            end += size
        return cls(
            vocabulary=end,
            features=max(sizes["features"].values(), default=0),
            channels=max(sizes["channels"].values(), default=0),
            outputs=max(output.size for _, output in outputs),
            first_id=first_id,
        )

    def inputs(self, name: str, own: Tensor, dtype: torch.dtype) -> Tensor:
        """Inputs of the data set `name` as the meta-model reads them: ids (B, T) in the joint alphabet, values (B, T, features) or images
        (B, channels, Y, X), padded with zeros."""
        if name in self.first_id:
            return own + self.first_id[name] if self.first_id[name] else own
        if self.images:
            return functional.pad(own, (0, 0, 0, 0, 0, self.channels - own.shape[1])).to(dtype)
        return functional.pad(own, (0, self.features - own.shape[2])).to(dtype)


_HOW = ": say how they map with unlike_tasks='pad' (padded with zeros to the union, alphabets side by side), or embed them apart"


def _list(datasets: dict[str, Dataset]) -> str:
    return ", ".join(f"{name!r} ({data.kind})" for name, data in datasets.items())
