"""Imported networks as maps: one step of the recurrent layer inside of them, a torch RNN, GRU or LSTM of any number of layers.

Its inputs are what the rest of the network gives it. State: the hidden states of all layers one after the other, of LSTMs then the cell
states. Legend: B sequences, T time, R rows, L layers, F features of the layer's input, U units, H numbers of the state.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from dynamo_dist.analysis.dynamics.maps import FunctionMaps
from dynamo_dist.data import Examples
from dynamo_dist.errors import InputError
from dynamo_dist.networks.architecture import Imported
from dynamo_dist.networks.imported import observe


@dataclass(frozen=True, kw_only=True)
class LayerDynamics:
    """The recurrent layer of one network, on sequences."""

    layer: nn.RNNBase
    # Its inputs (B, T, F) and states (B, T, H), float64.
    inputs: Tensor
    states: Tensor
    # The last layer's hidden state, which the network's trajectory shows.
    visible: slice

    def at(self, x_F: Tensor) -> FunctionMaps:
        """The map at a fixed input."""
        return FunctionMaps(lambda h_RH, m_R: _advance(self.layer, x_F.expand(len(h_RH), -1), h_RH), count=1, size=self.states.shape[2])


def layer_dynamics(module: nn.Module, architecture: Imported, part: Examples) -> LayerDynamics:
    """Find the layer and run the network. Raises `InputError` where there is no such layer, or where it also runs backwards."""
    module = copy.deepcopy(module).double().eval().requires_grad_(False)
    named = [module.get_submodule(name) for name in architecture.hidden]
    layers = [layer for layer in named if isinstance(layer, nn.RNNBase)] or [m for m in module.modules() if isinstance(m, nn.RNNBase)]
    if len(layers) != 1 or layers[0].bidirectional or layers[0].proj_size:
        raise InputError(
            f"{architecture.label}: a map to iterate needs one recurrent layer of torch (RNN, GRU, LSTM; one direction, no projection), "
            f"whose state can be set; found {', '.join(map(str, layers)) or 'none'}: analyse networks that have one"
        )
    (layer,) = layers
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, arguments: seen.append(_batch_first(layer, arguments[0], part.inputs.shape[1])))
    try:
        observe(module, architecture, part.inputs if part.inputs.dim() == 2 else part.inputs.double(), part.lengths_N)
    finally:
        hook.remove()
    inputs = seen[0].double()
    units = layer.num_layers * layer.hidden_size
    h = inputs.new_zeros(len(inputs), 2 * units if isinstance(layer, nn.LSTM) else units)
    states = []
    for x in inputs.unbind(1):
        h = _advance(layer, x, h)
        states.append(h)
    return LayerDynamics(layer=layer, inputs=inputs, states=torch.stack(states, dim=1), visible=slice(units - layer.hidden_size, units))


def _advance(layer: nn.RNNBase, x_RF: Tensor, h_RH: Tensor) -> Tensor:
    """One step of all layers."""
    time = 1 if layer.batch_first else 0
    state_LRU = h_RH.unflatten(1, (-1, layer.hidden_size)).transpose(0, 1)
    if not isinstance(layer, nn.LSTM):
        new_LRU: Tensor = layer(x_RF.unsqueeze(time), state_LRU.contiguous())[1]
        return new_LRU.transpose(0, 1).flatten(1)
    h, c = (part.contiguous() for part in state_LRU.chunk(2))
    return torch.cat(layer(x_RF.unsqueeze(time), (h, c))[1]).transpose(0, 1).flatten(1)


def _batch_first(layer: nn.RNNBase, x: Tensor | PackedSequence, steps: int) -> Tensor:
    if isinstance(x, PackedSequence):
        return pad_packed_sequence(x, batch_first=True, total_length=steps)[0]
    return x if layer.batch_first else x.transpose(0, 1)
