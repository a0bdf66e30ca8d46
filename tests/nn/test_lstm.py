"""LSTM against torch's own class; filled after it was built."""

import torch

from polymodal.nn.lstm import LSTM


def test_gives_what_torch_gives_and_follows_its_weights() -> None:
    torch.manual_seed(0)
    ours, theirs = LSTM(5, 7, 3), torch.nn.LSTM(5, 7, 3, batch_first=True)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = torch.randn(2, 6, 5)
    for name, value in theirs.state_dict().items():
        ours._parameters[name] = torch.nn.Parameter(value.clone())  # as a loader does
    assert (ours(x) - theirs(x)[0]).abs().max() < 1e-6
    for parameter in ours.parameters():
        parameter.data.zero_()
    assert not ours(x).any()


def test_dropout_acts_while_training_alone() -> None:
    torch.manual_seed(0)
    layers, x = LSTM(4, 4, 2, dropout=0.5), torch.randn(1, 3, 4)
    assert not torch.equal(layers.train()(x), layers(x))
    assert torch.equal(layers.eval()(x), layers(x))
