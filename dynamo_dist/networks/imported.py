"""Trained networks from elsewhere: a `torch.nn.Module` class of the user's, found by its name, and the tensors of each network.

Such a network is called as `module(inputs)`, or as `module(inputs, lengths_B)` where its forward takes lengths: its second argument
then has no default or "len" in its name. Inputs have the batch first. Its outputs are the tensor that it returns, or the last one of a
tuple that has the shape of outputs.

Legend: M networks, B batch, T time, H hidden units, C output units.
"""

import importlib
import inspect
import json
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from dynamo_dist.errors import InputError
from dynamo_dist.networks.architecture import Imported
from dynamo_dist.networks.stacked import Stacked


def one_line(error: Exception) -> str:
    """An error of the user's code, for a sentence of ours."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def class_of(name: str) -> type[nn.Module]:
    """The class `package.module:Class`. Names come from files: only a subclass of `torch.nn.Module` is ever returned, to be called."""
    package, _, attribute = name.partition(":")
    try:
        found = vars(importlib.import_module(package)).get(attribute)
    except Exception as error:
        raise InputError(
            f"{package} cannot be imported ({one_line(error)}): install it wherever its networks are used, or add its folder to PYTHONPATH"
        ) from None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise InputError(f"{name} is not a subclass of torch.nn.Module, and nothing else is called: give package.module:Class")
    return found


def name_of(kind: type[nn.Module]) -> str:
    """`package.module:Class`, from which every process finds the class. Raises `InputError` where none would."""
    if kind.__module__ == "__main__" or kind.__qualname__ != kind.__name__:
        raise InputError(
            f"workers cannot import the class {kind.__module__}.{kind.__qualname__}: move it to the top level of a file that they can import"
        )
    name = f"{kind.__module__}:{kind.__name__}"
    if class_of(name) is not kind:
        raise InputError(f"{name} is another class than the network's: give the class its own name in its file, and import it once")
    return name


def build(architecture: Imported) -> nn.Module:
    """A network as its constructor makes it, in use (`eval`); torch's generator stays where it was."""
    kind = class_of(architecture.module)
    try:
        with torch.random.fork_rng(devices=[]):
            module = kind(**json.loads(architecture.arguments)).eval()
    except Exception as error:
        raise InputError(
            f"{architecture.module} cannot be made with the arguments {architecture.arguments} ({one_line(error)}): give those that its "
            "constructor takes"
        ) from None
    if any(nn.parameter.is_lazy(tensor) for tensor in module.state_dict().values()):
        raise InputError(f"{architecture.module} has lazy layers, whose sizes are not known: use layers of fixed sizes")
    return module


def check_layers(module: nn.Module, names: Sequence[str]) -> None:
    """Raise `InputError` that lists the layers unless all of these are among them."""
    layers = layer_names(module)
    for name in names:
        if name not in layers:
            raise InputError(f"{type(module).__name__} has no layer {name!r}; its layers are {', '.join(layers)}")


def layer_names(module: nn.Module) -> list[str]:
    return [name for name, _ in module.named_modules() if name]


def takes_lengths(module: nn.Module) -> bool:
    """Whether the second argument of `forward` is lengths. An optional one of another name (`h0`, `mask`) is left alone."""
    named = [p for p in inspect.signature(module.forward).parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(named) > 1 and (named[1].default is inspect.Parameter.empty or "len" in named[1].name)


def observe(
    module: nn.Module, architecture: Imported, inputs: Tensor, lengths_B: Tensor | None, tensors: dict[str, Tensor] | None = None
) -> tuple[list[Tensor], Tensor]:
    """What the hidden layers give, each (B, ...), and the outputs, (B, C) or (B, T, C); `tensors`: used in place of the module's own."""
    batch, steps = inputs.shape[0], None if lengths_B is None else inputs.shape[1]
    seen: dict[str, Tensor] = {}

    def keep(name: str, layer: nn.Module, _: Any, output: Any) -> None:
        found = _batch_first(layer, output, steps)
        seen[name] = found.clone() if isinstance(found, Tensor) else found  # the next layer may work in place

    arguments = (inputs,) if lengths_B is None or not takes_lengths(module) else (inputs, lengths_B)
    hooks = [module.get_submodule(name).register_forward_hook(partial(keep, name)) for name in architecture.hidden]
    try:
        # Tied weights are stored under each of their names, equal: no need to tie them again.
        result = module(*arguments) if tensors is None else functional_call(module, tensors, arguments, tie_weights=False)
    finally:
        for hook in hooks:
            hook.remove()
    for name in architecture.hidden:
        if name not in seen:
            raise InputError(f"the layer {name!r} of {architecture.label} is not called when the network runs: name others")
        if not isinstance(seen[name], Tensor) or seen[name].shape[:1] != (batch,):
            what = tuple(seen[name].shape) if isinstance(seen[name], Tensor) else type(seen[name]).__name__
            raise InputError(f"the layer {name!r} of {architecture.label} gives {what}: expected a tensor with the batch of {batch} first")
    shapes = {(batch, architecture.outputs), (batch, steps, architecture.outputs)}
    answers = [entry for entry in entries(result) if tuple(entry.shape) in shapes]
    if not answers:
        found = ", ".join(str(tuple(entry.shape)) for entry in entries(result)) or type(result).__name__
        expected = " or ".join(str(shape) for shape in sorted(shapes, key=len) if None not in shape)
        raise InputError(f"{architecture.label} returns {found}: expected outputs of shape {expected}")
    return [seen[name] for name in architecture.hidden], answers[-1]


def entries(result: Any) -> list[Tensor]:
    """The tensors that a network returned: one, or those of a tuple or list."""
    return [entry for entry in (result if isinstance(result, (tuple, list)) else [result]) if isinstance(entry, Tensor)]


def _batch_first(layer: nn.Module, output: Any, steps: int | None) -> Any:
    """What a layer gives, of a tuple the first entry, as torch's recurrent layers have their states; those with the batch first."""
    if isinstance(output, (tuple, list)) and not isinstance(output, PackedSequence):
        output = output[0]
    if isinstance(output, PackedSequence):
        return pad_packed_sequence(output, batch_first=True, total_length=steps)[0]
    if isinstance(layer, nn.RNNBase) and not layer.batch_first:
        return output.transpose(0, 1)
    return output


class StackedImported(Stacked):
    """M networks of one class: `parameters` is their state dict, each tensor with a leading axis M. They are run one after the other.

    The trajectory is a list of tensors (M, B, ...), one per hidden layer; of sequences with a single hidden layer that has states
    (B, T, H), one tensor (T, M, B, H), as of recurrent networks.
    """

    architecture: Imported

    @classmethod
    def initial_tensors(cls, architecture: Imported, generator: torch.Generator) -> dict[str, Tensor]:
        raise InputError(f"networks of {architecture.module} are imported and cannot be trained here: train them first, then import them")

    def _empty(self) -> nn.Module:
        """A module that these tensors fit."""
        module = build(self.architecture).to(self.dtype)
        there = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
        stored = {name: tuple(tensor.shape[1:]) for name, tensor in self.parameters.items()}
        for name in sorted({*there, *stored}):
            if there.get(name) != stored.get(name):
                raise InputError(
                    f"{self.architecture.module}, tensor {name}: the network has shape {stored.get(name)}, and one made with the arguments "
                    f"{self.architecture.arguments} has {there.get(name)}: give the arguments that it was made with, and keep its class"
                )
        check_layers(module, self.architecture.hidden)
        return module

    @cached_property
    def _module(self) -> nn.Module:
        return self._empty().to(next(iter(self.parameters.values())).device)

    def __call__(self, inputs: Tensor, lengths_MB: Tensor | None, *, training: bool = False) -> tuple[Tensor | list[Tensor], Tensor]:
        inputs = inputs.expand(self.count, *inputs.shape[1:])
        lengths = [None] * self.count if lengths_MB is None else lengths_MB.expand(self.count, -1)
        runs = []
        for m in range(self.count):
            tensors = {name: tensor[m] for name, tensor in self.parameters.items()}
            runs.append(observe(self._module, self.architecture, inputs[m], lengths[m], tensors))
        outputs = torch.stack([out for _, out in runs])
        layers = [torch.stack(layer) for layer in zip(*(hidden for hidden, _ in runs), strict=True)]
        if lengths_MB is not None and len(layers) == 1 and layers[0].dim() == 4 and layers[0].shape[2] == inputs.shape[2]:
            return layers[0].permute(2, 0, 1, 3), outputs
        return layers, outputs

    def network(self, position: int) -> nn.Module:
        """One of them as the class that it is, in use (`eval`)."""
        module = self._empty()
        module.load_state_dict({name: tensor[position] for name, tensor in self.parameters.items()})
        return module
