"""Chains of modalities as the official sampler writes them, schedules, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from polymodal.check import randomise
from polymodal.check.fixture import official_weights, read, store
from polymodal.errors import ConfigError, PromptError
from polymodal.generation.masked_modalities import SpanIds, Written, chain, merge_spans, write_modalities
from polymodal.generation.schedules import temperature_schedule, token_schedule

IDS = SpanIds(spans=tuple(range(4, 12)))
PIXELS = "rgb@224.tensor"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import polymodal as pm

    folder: Path = tmp_path_factory.mktemp("fourm")
    about, _ = read("fourm_written")
    (folder / "config.json").write_text(about["config"], encoding="utf-8")
    store(official_weights(about), folder / about["file"], "")
    return pm.load(folder).module


def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers of the stored run in place of drawn ones."""
    monkeypatch.setattr(
        torch, "rand", lambda count, **more: torch.from_numpy((randomise.uniform("roar", count) + 1) / 2).float()
    )


def pictures(rows: int = 2) -> torch.Tensor:
    return randomise.values(PIXELS, (3, 3, 32, 32))[:rows]


@pytest.mark.parametrize(
    ("name", "steps", "tokens", "guidance", "grow"),
    [("plain", (3, 2), "cosine", 1.0, False), ("guided", (4, 3), "linear", 2.5, True)],
)
def test_a_chain_is_that_of_the_official_sampler(model, monkeypatch, name, steps, tokens, guidance, grow):
    in_order(monkeypatch)
    wanted = (
        Written(modality="tok_depth@224", steps=steps[0], tokens=tokens, guidance=guidance),
        Written(modality="caption", guidance=guidance, longest=12),
        Written(modality="tok_dinov2_global", scheme="roar", steps=steps[1], guidance=guidance),
        Written(modality="det", guidance=guidance, longest=10),
    )
    found = write_modalities(model, {PIXELS: pictures()}, wanted, IDS, grow=grow)
    for modality, ids in found.items():
        assert torch.equal(ids, read("fourm_written")[1][f"out.{name}.{modality}"]), modality


def test_guidance_by_words_and_pixels_is_the_official_one(model, monkeypatch):
    in_order(monkeypatch)
    stored = read("fourm_written")[1]
    wanted = (Written(modality="tok_depth@224", scheme="roar", steps=5, guidance=3.0),)
    given = {PIXELS: pictures(), "caption.tensor": stored["in.caption"]}
    found = write_modalities(model, given, wanted, IDS)
    assert torch.equal(found["tok_depth@224"], stored["out.words.tok_depth@224"])


def test_rows_alone_are_rows_of_a_batch_and_words_without_cache_are_the_same(model):
    wanted = chain(("caption", "tok_depth@224"), Written(modality=""))
    wanted = (wanted[0], Written(modality="tok_depth@224", steps=4))
    whole = write_modalities(model, {PIXELS: pictures()}, wanted, IDS)
    for row in range(2):
        alone = write_modalities(model, {PIXELS: pictures()[row : row + 1]}, wanted, IDS)
        assert all(torch.equal(alone[name][0], ids[row]) for name, ids in whole.items())
    words = whole["caption"][:1]
    ids = torch.cat((torch.tensor([[5, 5]]), words, torch.tensor([[6]])), 1)
    first = torch.arange(ids.shape[1])[None] == 0
    batch = {PIXELS: pictures(1), "caption.tensor": ids, "caption.input_mask": ~first, "caption.target_mask": first}
    logits = model(**batch).predictions["caption"]
    assert torch.equal(logits[:, 1 : words.shape[1] + 1].argmax(-1), words)


def test_a_seed_draws_the_same_and_another_something_else(model):
    wanted = (Written(modality="tok_depth@224", temperature=5.0),)
    found = [
        write_modalities(model, {PIXELS: pictures()}, wanted, IDS, seed=seed)["tok_depth@224"] for seed in (1, 1, 2)
    ]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_spans_are_filled_where_their_signs_stand(model):
    assert merge_spans([5, 30, 6], [5, 20, 21, 6, 22, 7, 9], IDS) == [20, 21, 30, 22]
    given = {PIXELS: pictures(1), "caption.tensor": torch.tensor([[40, 5, 41, 6]])}
    found = write_modalities(model, given, (Written(modality="caption", longest=6),), IDS)["caption"][0].tolist()
    assert found[0] == 40 and 41 in found
    wrong = {PIXELS: pictures(1), "caption.tensor": torch.tensor([[40, 41]])}
    with pytest.raises(PromptError, match=r"row 0: .* signs \[S_1\], \[S_2\] ... in order where words are wanted"):
        write_modalities(model, wrong, (Written(modality="caption"),), IDS)


REFUSED = (
    ({"modality": "tok_depth@224", "scheme": "autoregressive"}, "is a grid: scheme is maskgit or roar"),
    ({"modality": "caption", "scheme": "roar"}, "is a sequence: scheme is autoregressive"),
    ({"modality": "tok_depth@224", "steps": 17}, "17 steps for 16 tokens; expected 1 .. 16"),
    ({"modality": "tok_depth@224", "tokens": "square"}, "expected cosine or linear"),
    ({"modality": "tok_depth@224", "temperatures": "onex:1"}, "expected constant, linear or onex:MIN:POWER"),
    ({"modality": "tok_depth@224", "temperature": -1.0}, "temperature is 0.0 or more, found -1.0"),
    ({"modality": "rgb@224"}, "the model does not write 'rgb@224'; it writes caption, det"),
    ({"modality": "caption", "top_p": 0.0}, "top_p is above 0 and at most 1"),
    ({"modality": "caption", "longest": 1}, "longest is 2 or more"),
)


@pytest.mark.parametrize(("options", "words"), REFUSED, ids=lambda each: str(each)[:40])
def test_what_cannot_be_written_is_refused(model, options, words):
    with pytest.raises((ConfigError, PromptError), match=words):
        write_modalities(model, {PIXELS: pictures()}, (Written(**options),), IDS)


WRONG_BATCHES = (
    ({}, "the batch has no modality"),
    ({"rgb@224.pixels": torch.zeros(1)}, r"expected <modality>.tensor"),
    ({"depth.tensor": torch.zeros(1)}, "the model has no modality 'depth'; it has"),
    ({"caption.input_mask": torch.zeros(1, 4)}, "masks of caption and no caption.tensor"),
    ({PIXELS: torch.zeros(1, 3, 30, 32)}, r"rgb@224: expected \[B, 3, 32, 32\], found \[1, 3, 30, 32\]"),
    ({"tok_depth@224.tensor": torch.zeros(1, 9, dtype=torch.long)}, r"expected 4 x 4 = 16 ids, found 9"),
    ({"tok_depth@224.tensor": torch.full((1, 16), 50)}, r"ids lie in 0 .. 49, found 50"),
    ({"tok_depth@224.tensor": torch.zeros(1, 16)}, r"expected whole numbers \(ids\)"),
    ({"t5_caption.tensor": torch.zeros(1, 4, 7)}, r"t5_caption: expected \[B, L, 24\]"),
    ({"caption.tensor": torch.ones(1, 4).long(), "caption.input_mask": torch.ones(1, 5)}, r"expected \[1, 4\]"),
    ({PIXELS: torch.zeros(1, 3, 32, 32)}, "nothing is asked for; the model writes"),
)


@pytest.mark.parametrize(("batch", "words"), WRONG_BATCHES, ids=lambda each: str(each)[:40])
def test_batches_that_fit_no_modality_are_refused(model, batch, words):
    with pytest.raises(PromptError, match=words):
        model(**batch)


def test_losses_are_those_of_the_official_class(model):
    about, tensors = read("fourm")
    inputs = {name[3:]: value for name, value in tensors.items() if name.startswith("in.")}
    inputs |= {name: randomise.values(name, shape) for name, shape in json.loads(about["made"]).items()}
    with torch.inference_mode():
        output = model(**inputs, return_loss=True)
    assert abs(float(output.loss) - float(about["loss"])) < 1e-5
    stored = json.loads(about["losses"])
    assert all(abs(float(output.losses[name]) * len(stored) - loss) < 1e-5 for name, loss in stored.items())


def test_schedules_are_the_published_ones():
    assert token_schedule("cosine", 8, 196) == [7, 21, 32, 38, 38, 32, 21, 7]
    assert token_schedule("cosine", 5, 16) == [2, 4, 5, 4, 1]
    assert token_schedule("linear", 7, 9) == [2, 2, 1, 1, 1, 1, 1]
    assert sum(token_schedule("cosine", 25, 256)) == 256 and min(token_schedule("cosine", 25, 256)) > 0
    linear = temperature_schedule("linear", 3.0, [2, 4, 5, 4, 1])
    assert linear == pytest.approx([3.0, 2.625, 1.875, 0.9375, 0.1875])
    falling = temperature_schedule("onex:0.5:0.5", 5.0, [2, 4, 5, 4, 1])
    assert falling == pytest.approx([4.4375, 1.3210566407968933, 0.7583944472142775, 0.5372701577583616, 0.5])
