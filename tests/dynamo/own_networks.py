"""Networks as users write them. This file is on the path, so that their classes can be imported by name."""

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence


class Packed(nn.Module):
    """A text classifier as in tutorials: packed sequences, the final state, dropout; logits first, then the final state."""

    def __init__(self, words, hidden=6, layers=1, bidirectional=False):
        super().__init__()
        self.emb = nn.Embedding(words, 5, padding_idx=0)
        self.rnn = nn.GRU(5, hidden, layers, batch_first=True, bidirectional=bidirectional)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(hidden * (1 + bidirectional), 2)

    def forward(self, tokens, lengths):
        packed = pack_padded_sequence(self.emb(tokens), lengths, batch_first=True, enforce_sorted=False)
        _, final = self.rnn(packed)
        final = torch.cat(list(final[-2:]), dim=-1) if self.rnn.bidirectional else final[-1]
        return self.fc(self.drop(final)), final


class LastStep(nn.Module):
    """Tokens batch first, states time first; makes its initial state itself, in single precision."""

    def __init__(self, words, hidden=7):
        super().__init__()
        self.table = nn.Embedding(words, 4)
        self.lstm = nn.LSTM(4, hidden)
        self.out = nn.Linear(hidden, 2)

    def forward(self, tokens, lengths=None):
        h0 = torch.zeros(1, len(tokens), self.lstm.hidden_size)
        states, _ = self.lstm(self.table(tokens).transpose(0, 1), (h0, h0))
        last = states[-1] if lengths is None else states[lengths - 1, torch.arange(len(tokens))]
        return self.out(last)


class EveryStep(nn.Module):
    """Real-valued inputs; as torch's layers, time first or batch first as they are told."""

    def __init__(self, kind=nn.RNN, batch_first=False, hidden=5, **options):
        super().__init__()
        self.layer = kind(3, hidden, batch_first=batch_first, **options)
        self.readout = nn.Linear(hidden, 3)

    def forward(self, x, h0=None):
        states, final = self.layer(x, h0)
        return self.readout(states), final


class Attention(nn.Module):
    """Real-valued inputs, a hidden layer with a state at every step, tied weights and a buffer of whole numbers."""

    def __init__(self, width):
        super().__init__()
        self.mix = nn.Linear(3, width)
        self.again = nn.Linear(3, width)
        self.again.weight = self.mix.weight
        self.register_buffer("order", torch.arange(width).flip(0))
        self.readout = nn.Linear(width, 3)

    def forward(self, x):
        return self.readout((self.mix(x) * self.again(x))[..., self.order].cumsum(1))


class Encoder(nn.Module):
    def __init__(self, **layer):
        super().__init__()
        self.inward = weight_norm(nn.Linear(3, layer["d_model"]))
        self.encoder = nn.TransformerEncoderLayer(**layer)
        self.outward = nn.Linear(layer["d_model"], 3)

    def forward(self, x, mask=None):
        return self.outward(self.encoder(self.inward(x), mask))


class Convolutions(nn.Module):
    def __init__(self, width=4, kernel=(3, 3)):
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(1, width, tuple(kernel), padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2))
        self.stage2 = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(inplace=True))
        self.unused = nn.Identity()
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, images):
        return self.fc(self.stage2(self.stage1(images)).mean((2, 3)))


class Noisy(Convolutions):
    def forward(self, images):
        return super().forward(images) + 1e-3 * torch.randn(len(images), 10)


class Outer:
    class Inner(Convolutions):
        pass


def shout(**arguments):
    raise AssertionError("a function that a file names was called")
