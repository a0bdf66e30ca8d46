"""What 4M's masks keep: budgets, spans that can be put together again, whole chunks, the same draw by the same seed."""

from typing import Any

import pytest
import torch

from polymodal.check.evidence.fourm import PIXELS, WORDS, grid, shape
from polymodal.errors import ConfigError, PromptError
from polymodal.generation.masked_modalities import SpanIds, merge_spans
from polymodal.systems.fourm import SYSTEM
from polymodal.train.modality_masking import MaskedModalityModeling, ModalityMasking

IDS = SpanIds(spans=tuple(range(4, 20)))
NAMES = ("tok_depth@224", "caption")
SAMPLE = {
    "rgb@224": torch.zeros(3, 32, 32), "tok_depth@224": torch.arange(16), "caption": list(range(30, 42)),
    "color_palette": [[50, 51, 52], [53], [54, 55]],
}  # fmt: skip


def masking(objective: MaskedModalityModeling) -> ModalityMasking:
    config = shape(**{"rgb@224": PIXELS, "tok_depth@224": grid(16), "caption": WORDS, "color_palette": WORDS})
    model: Any = SYSTEM.formats[0].model_spec(config).build()
    return objective.masking(model, IDS)


@pytest.fixture(scope="module")
def mixed() -> ModalityMasking:
    names = (*NAMES, "color_palette")
    return masking(MaskedModalityModeling(
        inputs={"rgb@224": (1000.0, 0.5), **dict.fromkeys(names, (0.0, 0.5))},
        targets={"rgb@224": (0.0, 0.0), **dict.fromkeys(names, (0.5, 0.5))}, given=(10, 14), asked=(12, 12),
    ))  # fmt: skip


@pytest.mark.parametrize("seed", range(12))
def test_budgets_hold_and_nothing_of_a_grid_is_both_given_and_asked(mixed, seed):
    found = mixed(SAMPLE, torch.Generator().manual_seed(seed))
    given = sum(int((~found[f"{name}.input_mask"]).sum()) for name in SAMPLE)
    asked = sum(int((~found[f"{name}.target_mask"]).sum()) for name in SAMPLE)
    assert given <= 14 and asked <= 12
    assert not (~found["tok_depth@224.input_mask"] & ~found["tok_depth@224.target_mask"]).any()
    assert found["rgb@224.target_mask"].all()


@pytest.mark.parametrize("seed", range(8))
def test_spans_come_together_again_and_chunks_stay_whole(seed):
    objective = MaskedModalityModeling(
        inputs={"caption": (1.0,), "color_palette": (1.0,)}, targets={"caption": (1.0,), "color_palette": (1.0,)},
        given=(52, 52), asked=(52, 52),
    )  # fmt: skip
    found = masking(objective)(SAMPLE, torch.Generator().manual_seed(seed))
    for name, whole in (("caption", SAMPLE["caption"]), ("color_palette", list(range(50, 56)))):
        ids = found[f"{name}.tensor"]
        given, asked = ids[~found[f"{name}.input_mask"]].tolist(), ids[~found[f"{name}.target_mask"]].tolist()
        signs = [sum(token in IDS.spans for token in each) for each in (given, asked)]
        if given and signs[1] == signs[0] + 1:  # not cut by a budget
            assert merge_spans(given, asked, IDS) in ([*whole, IDS.end], [*whole])
    held = set(found["color_palette.tensor"][~found["color_palette.input_mask"]].tolist())
    assert len(held & {50, 51, 52}) in (0, 3) and len(held & {54, 55}) in (0, 2)


def test_a_seed_masks_the_same_and_samples_make_a_batch(mixed):
    first, again = (mixed(SAMPLE, torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    batch = mixed.batch([SAMPLE, SAMPLE], torch.Generator().manual_seed(0))
    assert batch["num_encoder_tokens"] == 14 and batch["caption.tensor"].shape == (2, 54)


def test_what_makes_no_mixture_is_refused():
    with pytest.raises(ConfigError, match="a number for each part of the mixture"):
        MaskedModalityModeling(inputs={"caption": (1.0, 2.0)}, targets={"caption": (1.0,)})
    few = SpanIds(spans=(4, 5))
    with pytest.raises(PromptError, match="cut into 2 spans; the vocabulary has signs for 1"):
        few.sign(2)
    with pytest.raises(ConfigError, match="must read and write modalities by name"):
        MaskedModalityModeling(inputs={"caption": (1.0,)}, targets={"caption": (1.0,)}).build(torch.nn.Linear(1, 1))
