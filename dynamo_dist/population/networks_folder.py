"""A folder of trained networks that becomes a population: `<name>.safetensors`, the tensors of a network, and `<name>.json`, what it is.

    {"architecture": {"family": "recurrent", "cell": "gru", "hidden": 32, "features": 16, "vocabulary": 500, "outputs": 2},
     "names": {"embedding": "emb", "recurrent": "rnn", "readout": "fc"},
     "group": "mine", "computation": "sentiment", "target": "label"}

    {"architecture": {"family": "imported", "module": "package.module:Class", "arguments": {"width": 8}, "hidden": ["layer1"]}}

`names`: what our parts are called in the tensors' names, `rnn.weight_ih_l0`; by default as we call them. All but the architecture may be
left out.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from dynamo_dist.data import Dataset
from dynamo_dist.errors import InputError
from dynamo_dist.networks import Imported, Recurrent, SequenceNetwork
from dynamo_dist.networks.architecture import from_dict
from dynamo_dist.networks.imported import build
from dynamo_dist.population.store import Population

FIELDS = ("architecture", "computation", "group", "names", "target")
PARTS = ("embedding", "recurrent", "readout")
PICKLED = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")


def import_folder(folder: Path, data: Dataset, out: Path) -> Population:
    """The population of a folder's networks, by name. Raises `InputError` that names the file, and writes nothing."""
    about = {path.stem: _read_about(path) for path in _find(folder)}
    modules, hidden, arguments = {}, {}, {}
    for name, fields in about.items():
        architecture = _architecture(folder / f"{name}.json", fields, data)
        modules[name] = _load(folder / f"{name}.safetensors", architecture, fields.get("names", {}))
        if isinstance(architecture, Imported):
            hidden[name], arguments[name] = architecture.hidden, json.loads(architecture.arguments)
    given = {
        field: {name: fields[field] for name, fields in about.items() if field in fields} for field in ("target", "group", "computation")
    }
    return Population.from_modules(
        modules, data=data, out=out, target=given["target"], groups=given["group"], computations=given["computation"], hidden=hidden,
        arguments=arguments,
    )  # fmt: skip


def _find(folder: Path) -> list[Path]:
    """The JSON files, each with its tensors beside it."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: it must hold <name>.safetensors and <name>.json for each network")
    pickled = sorted(path for path in folder.iterdir() if path.suffix in PICKLED)
    if pickled:
        raise InputError(
            f"{pickled[0]} is pickled, and pickles are never loaded: save the network by "
            f"safetensors.torch.save_model(module, '{pickled[0].stem}.safetensors') and move this file away"
        )
    about, tensors = ({path.stem for path in folder.glob(f"*{suffix}")} for suffix in (".json", ".safetensors"))
    for names, others, suffix in ((about, tensors, ".safetensors"), (tensors, about, ".json")):
        if names - others:
            name = min(names - others)
            raise InputError(f"{folder / name}{suffix} does not exist: each network needs {name}.safetensors and {name}.json")
    if not about:
        raise InputError(f"{folder} holds no networks: expected <name>.safetensors and <name>.json for each")
    return [folder / f"{name}.json" for name in sorted(about)]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is there twice")
    return fields


def _read_about(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text(), object_pairs_hook=_once)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(fields, dict) or not isinstance(fields.get("architecture"), dict):
        raise InputError(f"{path}: expected an object with the field architecture, an object too")
    for field, value in fields.items():
        if field not in FIELDS:
            raise InputError(f"{path}: unknown field {field!r}; the fields are {', '.join(FIELDS)}")
        if field in ("computation", "group", "target") and not (isinstance(value, str) and value):
            raise InputError(f"{path}: {field} is {value!r}: expected a string")
    names = fields.get("names", {})
    if not isinstance(names, dict) or not all(part in PARTS and isinstance(prefix, str) for part, prefix in names.items()):
        raise InputError(f"{path}: names is {names!r}: expected an object that names some of {', '.join(PARTS)}")
    prefixes = [names.get(part, part) for part in PARTS]
    if len(set(prefixes)) < len(PARTS):
        raise InputError(f"{path}: two of {', '.join(PARTS)} have the same name in {prefixes}: each part has its own")
    return fields


def _architecture(path: Path, fields: Mapping[str, Any], data: Dataset) -> Recurrent | Imported:
    given = dict(fields["architecture"])
    if given.get("family") == "imported":
        if "names" in fields:
            raise InputError(f"{path}: names is for the family recurrent; the tensors of other networks have the names of their class")
        target = fields.get("target") or next(iter(data.outputs))
        if target in data.outputs:  # another is refused with all the rest
            given.setdefault("outputs", data.outputs[target].size)
        given["arguments"] = json.dumps(given.get("arguments", {}))
    try:
        architecture = from_dict(given)
    except (InputError, TypeError) as error:
        raise InputError(f"{path}: {error}") from None
    if not isinstance(architecture, Recurrent | Imported):
        raise InputError(f"{path}: the family {given['family']!r} cannot be imported: expected recurrent or imported")
    return architecture


def _load(path: Path, architecture: Recurrent | Imported, names: Mapping[str, str]) -> nn.Module:
    """The network with its tensors."""
    try:
        tensors = load_file(path)
        with safe_open(path, framework="pt") as file:
            alike = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is not a readable safetensors file ({error}): save it again") from None
    # `save_model` writes tied weights once, and the other names in the metadata.
    tensors |= {other: tensors[name] for other, name in alike.items() if name in tensors and other not in tensors}
    try:
        module = SequenceNetwork(architecture) if isinstance(architecture, Recurrent) else build(architecture)
    except InputError as error:
        raise InputError(f"{path.with_suffix('.json')}: {error}") from None
    state: dict[str, Tensor] = {}
    for name, own in module.state_dict().items():
        part, _, rest = name.partition(".")
        theirs = f"{names[part]}.{rest}" if part in names else name
        if theirs not in tensors:
            raise InputError(f"{path}: the tensor {theirs} is missing; it holds {', '.join(sorted(tensors)) or 'none'}")
        state[name] = tensors.pop(theirs)
        if state[name].shape != own.shape:
            raise InputError(f"{path}: the tensor {theirs} has shape {tuple(state[name].shape)}: expected {tuple(own.shape)}")
    if tensors:
        raise InputError(f"{path}: the tensor {min(tensors)} is no part of the network that {path.stem}.json describes")
    if isinstance(architecture, Recurrent):  # half precision is a way to store numbers, not to compute here
        module.to(torch.promote_types(state["readout.weight"].dtype, torch.float32))
    module.load_state_dict(state)
    return module
