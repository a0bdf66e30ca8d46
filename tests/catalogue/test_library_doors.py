"""The doors of check/library.py on models of our own, shaped as the library's are: no library is needed."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from polymodal.check import library


@dataclass
class Outputs:
    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor, output_hidden_states: bool = False) -> Outputs:
        return Outputs(self.linear(x), hidden_states=(x, self.linear(x)) if output_hidden_states else None)


class Outer(nn.Module):
    """The features' method stands on the model inside, as with some classes of the library."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Module()
        self.model.vision_model = Encoder()
        self.model.get_image_features = lambda pixel_values: self.model.vision_model(pixel_values)

    def forward(self, pixel_values: Tensor) -> SimpleNamespace:
        states = self.model.vision_model(pixel_values).last_hidden_state
        return SimpleNamespace(logits=states.sum(-1), itm_score=states[..., 0], loss=None)


def test_outputs_are_read_by_the_first_name_they_have() -> None:
    outputs = Outputs(torch.zeros(1), pooler_output=torch.ones(1))
    assert library.output(outputs, "gone", "pooler_output", "last_hidden_state") is outputs.pooler_output
    assert library.output(Outputs(torch.zeros(1)), "pooler_output", "last_hidden_state").item() == 0
    with pytest.raises(AttributeError, match=r"expected gone or hidden_states, found .*library\.py"):
        library.output(outputs, "gone", "hidden_states")


def test_what_is_not_there_is_named_with_what_is() -> None:
    outputs = {"logits": torch.zeros(1), "loss": None}
    with pytest.raises(AttributeError, match="expected itm_score, found logits, loss"):
        library.output(outputs, "itm_score")
    with pytest.raises(AttributeError, match=r"expected a module text_model, found model"):
        library.part(Outer(), "text_model")


def test_features_logits_and_states_of_a_model() -> None:
    oracle, pixels = Outer(), torch.randn(2, 3)
    states = oracle.model.vision_model.linear(pixels)
    given = {"pixel_values": pixels}
    assert torch.equal(library.features(oracle, "image", **given), states)
    assert torch.equal(library.logits(oracle, given), states.sum(-1))
    assert torch.equal(library.field("gone", "itm_score")(oracle, given), states[..., 0])
    assert torch.equal(library.layer(oracle.model.vision_model, -1, pixels), states)
    assert library.states(states) is states


def test_what_a_part_hands_out_is_caught_once_and_the_hook_is_gone() -> None:
    oracle, pixels = Outer(), torch.randn(2, 3)
    outputs = library.caught(oracle, {"pixel_values": pixels}, "model.resampler", "model.vision_model")
    assert torch.equal(library.states(outputs), oracle.model.vision_model.linear(pixels))
    assert not oracle.model.vision_model._forward_hooks
    with pytest.raises(AttributeError, match=r"expected a module model\.resampler"):
        library.caught(oracle, {"pixel_values": pixels}, "model.resampler")
