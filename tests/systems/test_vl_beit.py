"""VL-BEiT beyond its evidence: which expert reads which token, saving, and what is refused."""

import pytest
import torch

import polymodal as pm
from polymodal.check import multiway, randomise
from polymodal.check.evidence.vl_beit import small, spec
from polymodal.errors import ConfigError
from polymodal.systems.vl_beit import SYSTEM
from polymodal.systems.vl_beit.checkpoint import ANSWERS, WORDS

PIXELS, IDS = randomise.values("pixels", (1, 3, 64, 64)), torch.tensor([[0, 40, 50, 2]])


@pytest.mark.parametrize(
    ("layer", "expert", "given", "changes"),
    [
        (0, 0, "picture", True),
        (0, 0, "text", False),
        (0, 1, "text", True),
        (0, 1, "picture", False),
        (2, 2, "picture", False),
        (2, 2, "text", False),
        (2, 2, "pair", True),
        (2, 0, "pair", False),
        (2, 1, "pair", False),
        (1, 0, "pair", True),
        (1, 1, "pair", True),
    ],
)
def test_each_expert_reads_its_own_tokens(layer: int, expert: int, given: str, changes: bool) -> None:
    model = spec(small(WORDS)).build().eval()
    randomise.fill(model)
    batch = {"picture": {"pixel_values": PIXELS}, "text": {"input_ids": IDS},
             "pair": {"pixel_values": PIXELS, "input_ids": IDS}}[given]  # fmt: skip
    with torch.no_grad():
        before = model.states(**batch)
        model.encoder.blocks[layer].mlp.branches[expert].down_proj.bias[0].add_(1)
        assert (not torch.allclose(before, model.states(**batch), atol=1e-5)) is changes


def test_a_saved_model_is_read_again(tmp_path) -> None:
    config, first = small(ANSWERS, num_labels=3), tmp_path / "first"
    first.mkdir()
    made = spec(config)
    model = multiway.stored(first, config, made, made.build(), ())
    again = pm.load(model.save(tmp_path / "second"))
    given = {"pixel_values": PIXELS, "input_ids": IDS}
    assert torch.equal(model.logits(**given), again.logits(**given))
    assert again.system.id == "vl-beit"
    assert again.processor.answers == ("answer 0", "answer 1", "answer 2")


def test_numbers_that_were_not_confirmed_are_not_filled_in() -> None:
    for stage in SYSTEM.recipe:
        assert stage.optimizer.lr is None
        assert stage.budget.batch is None
        assert stage.budget.steps is None


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="pair_layers must be 0 to 3, found 4"):
        spec(small(WORDS, pair_layers=4))
    with pytest.raises(ConfigError, match=r"kind must be one of .*; found captions"):
        spec(small("captions"))
