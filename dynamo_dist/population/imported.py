"""A population of networks that were trained elsewhere.

A network that is one recurrent layer with a linear readout becomes one of ours, and is stacked with its like; whether it is one is seen
from its parts and proved by running it. Every other keeps its own class, and is proved to be the same when it is made again from its
class, the arguments of its constructor and its tensors.

Legend: B batch, T time, C output units.
"""

import copy
import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dynamo_dist import storage
from dynamo_dist.commit import temporary_beside
from dynamo_dist.data import Dataset, Examples, Output
from dynamo_dist.errors import InputError
from dynamo_dist.networks import Architecture, Imported, Recurrent, StackedImported, StackedRecurrent, stack_of
from dynamo_dist.networks.imported import check_layers, entries, layer_names, name_of, observe, one_line
from dynamo_dist.networks.modules import UGRNN
from dynamo_dist.population.specs import NetworkSpec, Specs
from dynamo_dist.population.store import Population, Results
from dynamo_dist.population.training import evaluate

# Examples that a network must answer as its original does.
PROOF = 16
# Steps of sequences in the proof that a network is one of ours: a chaotic one amplifies rounding e-fold every few steps.
PROOF_STEPS = 32
_CELLS = {nn.GRU: "gru", nn.LSTM: "lstm", UGRNN: "ugrnn", nn.RNN: "rnn"}


@dataclass(frozen=True, kw_only=True)
class Adopted:
    """One trained network as it is stored: its tensors without the axis M."""

    architecture: Architecture
    tensors: dict[str, Tensor]


def import_modules(
    modules: Mapping[str, nn.Module] | Sequence[nn.Module],
    *,
    data: Dataset,
    out: str | Path,
    target: str | Mapping[str, str] | Sequence[str] | None = None,
    groups: Mapping[str, str] | Sequence[str] | None = None,
    computations: Mapping[str, str] | Sequence[str] | None = None,
    hidden: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    arguments: Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]] | None = None,
) -> Population:
    """See `Population.from_modules`."""
    if isinstance(modules, nn.Module):
        raise InputError(f"one {type(modules).__name__} is no population: give a mapping or a list of modules")
    named = dict(modules) if isinstance(modules, Mapping) else {f"#{n}": module for n, module in enumerate(modules)}
    ids = tuple(named)
    if not ids:
        raise InputError("there are no modules: give at least one trained network")
    out = storage.local(out).resolve()
    check_new(out)
    targets = _each("target", target, ids)
    group_of, computation_of, arguments_of = (
        _each(what, given, ids) for what, given in (("groups", groups), ("computations", computations), ("arguments", arguments))
    )
    hidden_of = _each("hidden", hidden, ids) if isinstance(hidden, Mapping) else dict.fromkeys(ids, hidden)
    adopted, specs = {}, []
    for id, module in named.items():
        if not (isinstance(id, str) and id):
            raise InputError(f"a network has the id {id!r}: ids are strings")
        try:
            own_target = targets[id] or _only_target(data)
            adopted[id] = _adopt(module, data, own_target, hidden_of[id], arguments_of[id])
        except InputError as error:
            raise InputError(f"network {id!r}: {error}") from None
        architecture = adopted[id].architecture
        group = group_of[id] or architecture.label
        specs.append(
            NetworkSpec(
                id=id, group=group, computation=computation_of[id] or group, architecture=architecture, target=own_target,
                seed=0, samples=0, epochs=0,
            )
        )  # fmt: skip
    _check_types(adopted)
    return write_population(out, Specs.of(specs), {"data": data}, adopted)


def check_new(out: Path) -> None:
    """Raise `InputError` unless this can become the folder of a population."""
    if out.is_file() or not storage.is_empty(out):
        raise InputError(f"{storage.address(out)} exists and is not an empty folder: choose another")


def write_population(out: Path, specs: Specs, datasets: Mapping[str, Dataset], adopted: Mapping[str, Adopted]) -> Population:
    """A complete population of these trained networks, by id, in a new or empty folder; their scores are measured."""
    # The name of a chunk does not tell its weights: a folder is filled once, and is there completely or not at all.
    temporary = temporary_beside(out)
    try:
        _commit(temporary, specs, datasets, adopted)
        if storage.mirrored(out):
            Population(temporary).publish(out)
            shutil.rmtree(temporary)
        else:
            temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return Population.open(out)


def _commit(path: Path, specs: Specs, datasets: Mapping[str, Dataset], adopted: Mapping[str, Adopted]) -> None:
    def size(spec: NetworkSpec, _: Dataset) -> int:
        return sum(tensor.nbytes for tensor in adopted[spec.id].tensors.values())

    population = Population.create(path, specs, datasets, bytes_per_network=size)
    for chunk in population.remaining():
        members = population.chunk_specs(chunk)
        first, data = adopted[members[0].id], datasets[members[0].data]
        tensors = {name: torch.stack([adopted[spec.id].tensors[name] for spec in members]) for name in first.tensors}
        networks = stack_of(first.architecture, tensors)
        scores: dict[str, list[float | None]] = {"classes": [None] * len(members), "values": [None] * len(members)}
        for target in dict.fromkeys(spec.target for spec in members):  # these may be of both kinds
            rows, output = [row for row, spec in enumerate(members) if spec.target == target], data.outputs[target]
            measured = evaluate([members[row] for row in rows], networks.select(rows), data.test, output)
            for row, score in zip(rows, measured, strict=True):
                scores[output.kind][row] = score
        none = [None] * len(members)
        results = Results(
            loss=none,
            curve=[[]] * len(members),
            steps=[0] * len(members),
            accuracy=scores["classes"],
            r2=scores["values"],
            failed_at=[-1] * len(members),
            failure=none,
        )
        name = population.chunk_name(members)
        population.commit(name, members, networks, results)
        population.record(name, chunk)


def _each(what: str, given: Any, ids: tuple[str, ...]) -> dict[str, Any]:
    """A value for every network, None where none is given: from one string for all, a mapping by id, or a sequence in their order."""
    if given is None or isinstance(given, str):
        return dict.fromkeys(ids, given)
    if isinstance(given, Mapping):
        for id in given:
            if id not in ids:
                raise InputError(
                    f"{what} names {id!r}, and there is no such network: they are {', '.join(map(str, ids[:5]))}{', ...' * (len(ids) > 5)}"
                )
        return {id: given.get(id) for id in ids}
    if len(given) != len(ids):
        raise InputError(f"{what} has {len(given)} entries for {len(ids)} networks: give one for each, in their order")
    return dict(zip(ids, given, strict=True))


def _only_target(data: Dataset) -> str:
    if len(data.outputs) > 1:
        raise InputError(f"the data have the targets {', '.join(data.outputs)}: say by `target` which one it learned")
    return next(iter(data.outputs))


def _check_types(adopted: Mapping[str, Adopted]) -> None:
    """Networks that are stacked must have numbers of the same types: nothing is rounded in silence."""
    first: dict[Architecture, tuple[str, dict[str, torch.dtype]]] = {}
    for id, one in adopted.items():
        types = {name: tensor.dtype for name, tensor in one.tensors.items()}
        other, expected = first.setdefault(one.architecture, (id, types))
        for name, dtype in types.items():
            if dtype != expected[name]:
                raise InputError(
                    f"network {id!r}: its {name} is {dtype}, and that of {other!r}, which is alike, is {expected[name]}: convert one"
                )


def _same(a: Tensor, b: Tensor) -> bool:
    """Whether two results of the same computation are equal but for rounding."""
    return a.shape == b.shape and bool((a - b).abs().max() <= 1e-4 * a.abs().max())


def _adopt(module: nn.Module, data: Dataset, target: str, hidden: Sequence[str] | None, arguments: Mapping[str, Any] | None) -> Adopted:
    """What is stored of a network. The module itself is left as it is."""
    if not isinstance(module, nn.Module):
        raise InputError(f"{type(module).__name__} is not a torch.nn.Module: give trained modules")
    if target not in data.outputs:
        raise InputError(f"target={target!r} is not in the data set, which has: {', '.join(data.outputs)}")
    output = data.outputs[target]
    try:
        own = copy.deepcopy(module).cpu().to(memory_format=torch.contiguous_format).eval().requires_grad_(False)  # type: ignore[call-overload]  # not in torch's stubs
    except Exception as error:
        raise InputError(f"{type(module).__name__} cannot be copied ({one_line(error)}): give a trained module that can") from None
    dtype = next((t.dtype for t in own.state_dict().values() if isinstance(t, Tensor) and t.is_floating_point()), None)
    if dtype is None:
        raise InputError(f"{type(own).__name__} has no parameters")
    examples = data.test.select(torch.arange(min(PROOF, len(data.test))))
    if examples.inputs.is_floating_point():
        examples = dataclasses.replace(examples, inputs=examples.inputs.to(dtype))
    with torch.no_grad():
        adopted = _as_recurrent(own, examples, data, output)
        if adopted is not None:
            return adopted
        if not hidden:
            where = "every step" if output.every_step else "the last valid step"
            raise InputError(
                f"on the data, {type(own).__name__} does not give the outputs of one recurrent layer with a linear readout at {where}; to "
                f"keep it as it is, say by `hidden` which of its layers are the hidden trajectory: {', '.join(layer_names(own)) or 'it has none'}"
            )
        return _as_imported(own, examples, output, (hidden,) if isinstance(hidden, str) else tuple(hidden), arguments or {})


# ---- one of ours -----------------------------------------------------------------------------------------------------------


def _parts(module: nn.Module) -> tuple[nn.Embedding | None, nn.Module, nn.Linear] | None:
    """The embedding, the recurrent layer and the readout, if everything that holds tensors is one of these three."""
    holders = [m for m in module.modules() if any(True for _ in (*m.parameters(recurse=False), *m.buffers(recurse=False)))]
    embeddings = [m for m in holders if isinstance(m, nn.Embedding)]
    layers = [m for m in holders if isinstance(m, tuple(_CELLS))]
    readouts = [m for m in holders if isinstance(m, nn.Linear)]
    if len(embeddings) > 1 or len(layers) != 1 or len(readouts) != 1 or len(holders) != len(embeddings) + 2:
        return None
    (layer,), (readout,) = layers, readouts
    plain = {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"}  # one layer, one direction, with biases, no projection
    if {name for name, _ in layer.named_parameters()} != plain or readout.bias is None:
        return None
    embedding = embeddings[0] if embeddings else None
    hidden, features = (layer.get_parameter(name).shape[1] for name in ("weight_hh_l0", "weight_ih_l0"))
    if readout.in_features != hidden or (embedding is not None and embedding.embedding_dim != features):
        return None
    return embedding, layer, readout


def _as_recurrent(module: nn.Module, examples: Examples, data: Dataset, output: Output) -> Adopted | None:
    """The network as `Recurrent`, if it has its parts and gives its outputs, within rounding."""
    parts = _parts(module)
    if parts is None or data.kind == "images" or (parts[0] is None) != (data.kind == "values"):
        return None
    embedding, layer, readout = parts
    if embedding is not None and data.vocabulary is not None and embedding.num_embeddings < data.vocabulary:
        raise InputError(f"its embedding has {embedding.num_embeddings} tokens, and the data have {data.vocabulary}")
    cell = next(cell for kind, cell in _CELLS.items() if isinstance(layer, kind))
    architecture = Recurrent(
        cell="rnn-relu" if cell == "rnn" and layer.nonlinearity == "relu" else cell,
        hidden=readout.in_features,
        outputs=readout.out_features,
        vocabulary=None if embedding is None else embedding.num_embeddings,
        features=layer.get_parameter("weight_ih_l0").shape[1],
        every_step=output.every_step,
    )
    if embedding is None and architecture.features != data.input_shape[0]:
        return None
    tensors = StackedRecurrent.tensors_of(embedding, layer, readout)
    stack = StackedRecurrent(architecture, {name: tensor[None] for name, tensor in tensors.items()})
    # In double precision first: a recurrence amplifies rounding. Modules that make tensors of a fixed type run only in their own.
    for dtype in (torch.float64, stack.dtype):
        if _same_outputs(copy.deepcopy(module).to(dtype), stack.to(dtype), examples):
            return Adopted(architecture=architecture, tensors=tensors)
    return None


def _same_outputs(module: nn.Module, stack: StackedRecurrent, examples: Examples) -> bool:
    """Whether a module, called in one of the usual ways, returns the outputs of a stack of one: (B, C), or (B, T, C) at valid steps.

    Equal to half of the digits: another network, or another step, is farther off on one of the examples.
    """
    time = examples.inputs.shape[1]
    steps = min(time, PROOF_STEPS)
    lengths_B = (examples.steps_N * steps + time - 1) // time  # shorter in proportion: as different as they were
    valid_BT = torch.arange(steps) < lengths_B[:, None]
    inputs = examples.inputs[:, :steps]
    inputs = inputs * valid_BT.view(*valid_BT.shape, *[1] * (inputs.dim() - 2))  # some see by the zeros where a sequence ends
    inputs = inputs.to(stack.dtype) if inputs.is_floating_point() else inputs
    _, (ours,) = stack(inputs[None], lengths_B[None])
    valid = valid_BT if ours.dim() == 3 else slice(None)
    bound = torch.finfo(ours.dtype).eps ** 0.5 * max(1.0, float(ours[valid].abs().max()))
    time_first = inputs.transpose(0, 1)
    for arguments in ((inputs, lengths_B), (inputs,), (time_first, lengths_B), (time_first,)):
        try:
            result = module(*arguments)
        except Exception:  # not how this one is called
            continue
        for entry in entries(result):
            for answer in (entry, entry.transpose(0, 1)) if entry.dim() == 3 else (entry,):
                if answer.shape == ours.shape and bool(((answer[valid] - ours[valid]).abs() <= bound).all()):
                    return True
    return False


# ---- one of the user's own class ---------------------------------------------------------------------------------------------


def _as_imported(module: nn.Module, examples: Examples, output: Output, hidden: tuple[str, ...], arguments: Mapping[str, Any]) -> Adopted:
    """The network as `Imported`, after it was made again and gave the same, bit for bit."""
    check_layers(module, hidden)
    try:
        text = json.dumps(dict(arguments), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the arguments of {type(module).__name__} are not JSON ({error}): give numbers, strings, lists and objects"
        ) from None
    architecture = Imported(module=name_of(type(module)), arguments=text, hidden=hidden, outputs=output.size)
    inputs, lengths_B = examples.inputs, examples.lengths_N
    try:
        layers, answers = observe(module, architecture, inputs, lengths_B)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{architecture.label} cannot be run on the data ({one_line(error)}): it is called with inputs {tuple(inputs.shape)}, and with "
            "lengths if it takes any"
        ) from None
    if answers.dim() != (3 if output.every_step else 2):
        where = "every step" if output.every_step else "the last valid step"
        raise InputError(f"{architecture.label} returns {tuple(answers.shape)}, and the data ask for one answer at {where}")
    if not bool(torch.isfinite(answers).all()):
        raise InputError(f"the outputs of {architecture.label} on the data are not all finite numbers")
    state = module.state_dict()
    odd = next((name for name, tensor in state.items() if not isinstance(tensor, Tensor)), None)
    if odd is not None:
        raise InputError(f"the state of {architecture.label} has {odd}, which is no tensor: only tensors are stored")
    stack = StackedImported(architecture, {name: tensor.detach()[None] for name, tensor in state.items()})
    again_layers, again = observe(stack.network(0), architecture, inputs, lengths_B)
    _, (stacked,) = stack(inputs[None], None if lengths_B is None else lengths_B[None])
    # Not to the last bit: on some processors products depend on where tensors lie in memory.
    if not all(_same(a, b) for a, b in zip([*layers, answers, answers], [*again_layers, again, stacked], strict=True)):
        raise InputError(
            f"{architecture.label} made again with the arguments {text} and the same tensors gives other outputs: give the arguments that it "
            "was made with; what else determines it must be in its state dict, and it must not be random"
        )
    return Adopted(architecture=architecture, tensors={name: tensor[0] for name, tensor in stack.parameters.items()})
