"""A base network as the plain torch module that it is."""

import torch
from torch import Tensor, nn

CELLS = ("gru", "rnn")


class SequenceClassifier(nn.Module):
    """Token embedding, one recurrent layer, a linear readout at the last valid step.

    `forward(tokens_BT, lengths_B)` returns the hidden states (B, T, H) and the logits (B, C).
    """

    def __init__(self, *, cell: str, vocabulary: int, embedding: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        layer = {"gru": nn.GRU, "rnn": nn.RNN}[cell]
        self.recurrent = layer(embedding, hidden, batch_first=True)
        self.readout = nn.Linear(hidden, classes)

    def forward(self, tokens_BT: Tensor, lengths_B: Tensor) -> tuple[Tensor, Tensor]:
        h_BTH, _ = self.recurrent(self.embedding(tokens_BT))
        last_BH = h_BTH[torch.arange(len(lengths_B), device=h_BTH.device), lengths_B - 1]
        return h_BTH, self.readout(last_BH)
