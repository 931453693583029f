"""Groups: networks made alike, from a few words about them and the data set that they learn from."""

import dataclasses
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dynamo_dist.data import Dataset, Output
from dynamo_dist.errors import InputError
from dynamo_dist.networks.architecture import Architecture, from_dict
from dynamo_dist.population.specs import NetworkSpec, own_samples

# Expected number of networks of a group without an example of some class, below which none is looked for.
_NEVER = 1e-9
# Features of a token embedding where none are given.
FEATURES = 16


@dataclass(frozen=True, kw_only=True)
class Group:
    """Networks that differ in their seeds alone."""

    name: str
    # As the fields of an architecture, with its `family`; what the data decide (sizes of inputs and outputs) may be left out.
    architecture: Mapping[str, Any]
    networks: int
    # The truth that clusters are judged against; "": the group's name.
    computation: str = ""
    # Which data set, and which target of it; "": the only one.
    data: str = "data"
    target: str = ""
    # Share of the labelled part that each sees, its own draw.
    fraction: float = 1.0
    # Seed of the first of them, the others' follow; None: the next of the population.
    seed: int | None = None
    # Further fields of `NetworkSpec`, from batch to patience.
    training: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (isinstance(self.networks, int) and self.networks >= 1):
            raise InputError(f"group {self.name!r}: networks={self.networks!r}: expected at least 1, each with its own seed")
        if not 0 < self.fraction <= 1:
            raise InputError(f"group {self.name!r}: fraction={self.fraction}: expected a share of the labelled part, above 0 and at most 1")
        known = {f.name for f in dataclasses.fields(NetworkSpec)} - {"id", "group", "computation", "architecture", "data", "target", "seed"}
        for name in self.training:
            if name not in known:
                raise InputError(f"group {self.name!r}: unknown field {name!r}; expected one of {', '.join(sorted(known))}")


def specs_of(groups: Sequence[Group], data: Dataset | Mapping[str, Dataset], *, seed: int = 0) -> Iterator[NetworkSpec]:
    """The networks of all groups, one by one. Seeds count through the population from 1000 `seed`, but in groups with a seed of their own."""
    datasets = {"data": data} if isinstance(data, Dataset) else data
    number = 1000 * seed
    for group in groups:
        if group.data not in datasets:
            raise InputError(f"group {group.name!r}: data={group.data!r} is not there; the data sets are {', '.join(datasets)}")
        own = datasets[group.data]
        target = group.target or _only_target(group, own)
        if target not in own.outputs:
            raise InputError(f"group {group.name!r}: target={target!r} is not in the data set, which has: {', '.join(sorted(own.outputs))}")
        try:
            architecture = _architecture(group.architecture, own, own.outputs[target])
        except InputError as error:
            raise InputError(f"group {group.name!r}: {error}") from None
        at_risk = _classes_at_risk(group, target, own)
        for member in range(group.networks):
            spec = NetworkSpec(
                id=f"{group.name} #{member}",
                group=group.name,
                computation=group.computation or group.name,
                architecture=architecture,
                data=group.data,
                target=target,
                seed=number if group.seed is None else group.seed + member,
                **{"samples": round(group.fraction * len(own.base)), **group.training},
            )
            if at_risk is not None:
                _check_classes(spec, at_risk)
            yield spec
            number += 1


def _classes_at_risk(group: Group, target: str, data: Dataset) -> np.ndarray | None:
    """The classes of the labelled part, int64 (N,), where it can happen that a network's share of them lacks one; otherwise None."""
    targets = data.base.targets[target]
    if group.fraction == 1 or data.outputs[target].kind != "classes" or targets.dim() > 1:
        return None
    class_N = targets.numpy()
    counts = np.bincount(class_N[class_N >= 0])
    share = group.fraction * (1 - group.training.get("validation", 0.0))
    # How many networks of the group lack a class, on average, is at most this: a million are not all looked at.
    lacking = group.networks * ((1 - share) ** counts[counts > 0]).sum()
    return class_N if lacking > _NEVER else None


def _check_classes(spec: NetworkSpec, class_N: np.ndarray) -> None:
    """Raise `InputError` if a network would train without an example of a class that it is to learn."""
    trained = class_N[own_samples(spec, len(class_N))[0]]
    size = int(class_N.max()) + 1
    counts, own = (np.bincount(classes[classes >= 0], minlength=size) for classes in (class_N, trained))
    missing = np.flatnonzero((counts > 0) & (own == 0))
    if len(missing):
        raise InputError(
            f"network {spec.id}: none of its {len(trained)} examples is of class {missing[0]}, of which the labelled part has "
            f"{counts[missing[0]]}: give its group a larger fraction, or another seed"
        )


def _only_target(group: Group, data: Dataset) -> str:
    if len(data.outputs) > 1:
        raise InputError(f"group {group.name!r}: the data have the targets {', '.join(data.outputs)}: set `target` to one of them")
    return next(iter(data.outputs))


def _architecture(fields: Mapping[str, Any], data: Dataset, output: Output) -> Architecture:
    """The architecture with what the data decide filled in."""
    given: dict[str, Any] = {"outputs": output.size}
    if fields.get("family") == "recurrent":
        given |= {"every_step": output.every_step, "vocabulary": data.vocabulary}
        given["features"] = FEATURES if data.kind == "tokens" else data.input_shape[0]
    elif fields.get("family") == "convolutional":
        given["channels"] = data.input_shape[0]
    return from_dict(given | dict(fields))


def read_groups(path: Path) -> list[Group]:
    """The groups of a TOML file, a table `[[group]]` each. Raises `InputError` that names the group and the field."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} is not a readable TOML file: {error}") from None
    tables = content.pop("group", None)
    if not tables or content or not isinstance(tables, list):
        raise InputError(f"{path}: expected tables [[group]] and nothing else{', found ' + ', '.join(content) if content else ''}")
    own = {f.name: f for f in dataclasses.fields(Group)}
    groups = []
    for number, table in enumerate(tables, 1):
        missing = [name for name in ("name", "architecture", "networks") if name not in table]
        if missing:
            raise InputError(f"{path}, group {table.get('name', number)!r}: the field {missing[0]!r} is missing")
        fields = {name: value for name, value in table.items() if name in own and name != "training"}
        # One level in the file: what is no field of a group says how its networks train.
        training = {name: value for name, value in table.items() if name not in own}
        try:
            groups.append(Group(**fields, training=training | dict(table.get("training", {}))))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    names = [group.name for group in groups]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise InputError(f"{path}: two groups have the name {repeated!r}: give each its own")
    return groups
