"""Recipes of images: the digits that scikit-learn ships, and CIFAR-10."""

import dataclasses
from pathlib import Path

from dynamo_dist.data.images import DigitsTask, ImageTask
from dynamo_dist.errors import InputError
from dynamo_dist.metamodel import MetaModelConfig
from dynamo_dist.population.groups import Group
from dynamo_dist.recipes.base import Recipe


def digits(*, size: str = "small", data: str | None = None) -> Recipe:
    """Small ResNets of two depths and two widths on the 8x8 digits of scikit-learn."""
    if data is not None:
        raise InputError("the recipe digits makes its data from what scikit-learn ships: leave --data out")
    each, epochs = {"tiny": (1, 2), "small": (6, 15), "paper": (20, 30)}[size]
    small = ((8, 8), (8, 12), (20, 8), (20, 12))
    shapes = {"tiny": ((8, 4), (20, 4)), "small": small, "paper": ((8, 16), (8, 32), (20, 16), (20, 32))}[size]

    def group(depth: int, width: int) -> Group:
        return Group(
            name=f"resnet{depth}-{width}", computation=f"depth {depth}", networks=each,
            architecture={"family": "convolutional", "kind": "resnet", "depth": depth, "width": width},
            training={"batch": 32, "epochs": epochs, "learning_rate": 2e-3},
        )  # fmt: skip

    return Recipe(
        name="digits",
        title="Digits, ResNets of two depths and two widths",
        data={"data": DigitsTask()},
        groups=tuple(group(depth, width) for depth, width in shapes),
        # What limits the hidden R^2 is the width: the first K principal components of all networks' first maps, side by side, hold
        # 0.58, 0.71 and 0.79 of their variance for K = 16, 32 and 48.
        meta={
            "tiny": MetaModelConfig(dimensions=4, hidden=8, steps=20, batch=32, learning_rate=3e-3),
            # Hidden R^2, lowest, and agreement, median, after 800 steps at a rate of 3e-3, 8e-3, 16e-3: 0.755 (0.691) 0.968, 0.772 (0.710)
            # 0.969, 0.767 (0.701) 0.961; after 1,600 at 8e-3 0.806 (0.754) 0.972, 2,400 at 3e-3 0.816 (0.768) 0.972.
            "small": MetaModelConfig(dimensions=8, hidden=48, steps=1600, batch=12, learning_rate=8e-3, checkpoint_every=400),
            "paper": MetaModelConfig(dimensions=16, hidden=128, steps=20_000, batch=64, learning_rate=2e-3),
        }[size],
        analyses=("similarity", "averaging"),
    )


def landscape(*, size: str = "small", data: str | None = None) -> Recipe:
    """Accuracy over a plane of the embedding space of the ResNets of `digits`: are there better networks than those?"""
    return dataclasses.replace(
        digits(size=size, data=data), name="landscape", title="Accuracy over the embedding space", analyses=("landscape",)
    )


def semisupervised(*, size: str = "small", data: str | None = None) -> Recipe:
    """A network chosen by a few labelled digits, by optimising theta alone."""
    return dataclasses.replace(digits(size=size, data=data), name="semisupervised", title="Few labels", analyses=("semisupervised",))


def cifar_policies(*, size: str = "small", data: str | None = None) -> Recipe:
    """ResNets on CIFAR-10 that differ in how they were trained: the amount of data, and its augmentation."""
    if data is None:
        raise InputError(
            "the recipe cifar-policies needs --data PATH: cifar-10-binary.tar.gz, the folder it unpacks to, or a folder with train.parquet and "
            "test.parquet (columns image, label)"
        )
    each, depth, width, epochs, batch = {"tiny": (2, 8, 4, 1, 8), "small": (2, 8, 16, 6, 64), "paper": (10, 34, 16, 100, 128)}[size]
    meta = {
        "tiny": MetaModelConfig(dimensions=3, hidden=8, steps=20, batch=8),
        "small": MetaModelConfig(dimensions=8, hidden=48, steps=1200, batch=8, learning_rate=3e-3, checkpoint_every=200),
        "paper": MetaModelConfig(dimensions=16, hidden=256, steps=60_000, batch=64, learning_rate=2e-3),
    }[size]

    def group(policy: str, fraction: float = 1.0, augmentation: str = "none") -> Group:
        # As many steps for all: with fewer examples more epochs, so that what differs is the data and not the length of training.
        return Group(
            name=policy, networks=each, fraction=fraction,
            architecture={"family": "convolutional", "kind": "resnet", "depth": depth, "width": width},
            training={"batch": batch, "epochs": round(epochs / fraction), "learning_rate": 3e-3, "augmentation": augmentation},
        )  # fmt: skip

    return Recipe(
        name="cifar-policies",
        title="CIFAR-10, ResNets by amount of data and augmentation",
        data={"data": ImageTask(source=str(Path(data).resolve()))},
        groups=(
            group("100 %"),
            group("50 %", fraction=0.5),
            group("25 %", fraction=0.25),
            *(group(kind, augmentation=kind) for kind in ("crop_flip", "cutout", "mixup")),
        ),
        meta=meta,
        analyses=("similarity", "averaging"),
    )
