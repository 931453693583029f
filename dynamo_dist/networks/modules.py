"""Base networks as the plain torch modules that they are: how users take one home, and the truth of the tests."""

import torch
from torch import Tensor, nn

from dynamo_dist.networks.architecture import Recurrent


class UGRNN(nn.Module):
    """Update-gate recurrent network (Collins, Sohl-Dickstein, Sussillo, arXiv 1611.09913): torch has no such layer.

    One layer, the weights laid out as in `torch.nn.GRU`: rows of the update gate g, then of the candidate c.
    h' = g h + (1 - g) c,  g = sigmoid(...), c = tanh(...).
    """

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.weight_ih_l0, self.weight_hh_l0 = (nn.Parameter(torch.empty(2 * hidden, size)) for size in (features, hidden))
        self.bias_ih_l0, self.bias_hh_l0 = (nn.Parameter(torch.empty(2 * hidden)) for _ in range(2))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)

    def forward(self, x_BTI: Tensor) -> tuple[Tensor, None]:
        x_BTG = x_BTI @ self.weight_ih_l0.T + self.bias_ih_l0 + self.bias_hh_l0
        h, states = x_BTG.new_zeros(len(x_BTG), self.weight_hh_l0.shape[1]), []
        for x in x_BTG.unbind(1):
            g, c = (x + h @ self.weight_hh_l0.T).chunk(2, dim=-1)
            h = torch.lerp(c.tanh(), h, g.sigmoid())
            states.append(h)
        return torch.stack(states, dim=1), None


def _layer(architecture: Recurrent) -> nn.Module:
    features, hidden = architecture.features, architecture.hidden
    if architecture.cell == "ugrnn":
        return UGRNN(features, hidden)
    if architecture.cell.startswith("rnn"):
        return nn.RNN(features, hidden, batch_first=True, nonlinearity="relu" if architecture.cell == "rnn-relu" else "tanh")
    layers: dict[str, type[nn.GRU | nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}
    return layers[architecture.cell](features, hidden, batch_first=True)


class SequenceNetwork(nn.Module):
    """Token embedding (where inputs are tokens), one recurrent layer, a linear readout.

    `forward(inputs, lengths_B)` takes token ids (B, T) or real values (B, T, I) and returns the hidden states (B, T, H) and the
    outputs: (B, C) at the last valid step, or (B, T, C) at every step.
    """

    def __init__(self, architecture: Recurrent) -> None:
        super().__init__()
        self.architecture = architecture
        self.embedding = nn.Embedding(architecture.vocabulary, architecture.features) if architecture.vocabulary else nn.Identity()
        self.recurrent = _layer(architecture)
        self.readout = nn.Linear(architecture.hidden, architecture.outputs)

    def forward(self, inputs: Tensor, lengths_B: Tensor | None = None) -> tuple[Tensor, Tensor]:
        h_BTH, _ = self.recurrent(self.embedding(inputs))
        if self.architecture.every_step:
            return h_BTH, self.readout(h_BTH)
        if lengths_B is None:
            return h_BTH, self.readout(h_BTH[:, -1])
        last_BH = h_BTH[torch.arange(len(lengths_B), device=h_BTH.device), lengths_B - 1]
        return h_BTH, self.readout(last_BH)
