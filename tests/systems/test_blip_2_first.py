"""BLIP-2 and InstructBLIP as first released, without `image_token_index`: the features stand in front of the prompt.

The library of today does not run such a folder; its classes of that time (transformers 4.27 to 4.46)
put the projected queries before the embeddings of the text and ones before its mask.  That is what today's class
computes for a prompt that begins with placeholders, and what is compared here.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import polymodal as pm
from polymodal.check import library, randomise
from polymodal.check.compare import max_abs_error
from polymodal.check.demo import byte_tokenizer
from polymodal.check.evidence import blip_2

pytest.importorskip("transformers")

WORDS = torch.tensor([[2, 11, 12, 13, 14], [1, 1, 2, 21, 22]])
MASK = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
PIXELS = randomise.values("pixels", (2, 3, 28, 28))


def first_release(folder: Path, kind: str, config: str = "Blip2Config", model: str = blip_2.GENERATE) -> Any:
    """A folder whose config does not name a placeholder, and today's model with the same weights."""
    with library.quiet() as transformers:
        settings = blip_2.tiny(getattr(transformers, config), {"model_type": kind, "bos_token_id": 2}, {}, {})
        oracle = library.built(transformers, model, settings)
        library.saved(oracle, folder)
    said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    said = {name: value for name, value in said.items() if name not in ("image_token_index", "image_token_id")}
    (folder / "config.json").write_text(json.dumps(said), encoding="utf-8")
    return oracle


def in_front(ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    front = torch.full((len(ids), blip_2.QUERIES), blip_2.IMAGE)
    return {"input_ids": torch.cat((front, ids), 1), "attention_mask": torch.cat((torch.ones_like(front), mask), 1)}


@pytest.mark.parametrize("kind", ["opt", "t5"])
@torch.no_grad()
def test_the_features_stand_in_front_of_the_prompt(kind: str, tmp_path: Path) -> None:
    oracle, model = first_release(tmp_path, kind), pm.load(tmp_path)
    more = {"decoder_input_ids": torch.tensor([[0, 5, 6], [0, 7, 8]])} if kind == "t5" else {}
    wanted = library.logits(oracle, {**in_front(WORDS, MASK), "pixel_values": PIXELS, **more})
    found = model.logits(input_ids=WORDS, attention_mask=MASK, pixel_values=PIXELS, **more)
    real = torch.ones_like(wanted[..., 0], dtype=torch.bool)
    if kind == "opt":
        real = in_front(WORDS, MASK)["attention_mask"].bool()
    assert max_abs_error(found[real], wanted[real]) < 1e-4


@pytest.mark.parametrize("kind", ["opt", "t5"])
@torch.no_grad()
def test_answers_follow_the_prompt_that_was_given(kind: str, tmp_path: Path) -> None:
    oracle, model = first_release(tmp_path, kind), pm.load(tmp_path)
    ids, mask = WORDS[:1], MASK[:1]
    wanted = library.greedy(oracle, {**in_front(ids, mask), "pixel_values": PIXELS[:1]}, {})
    options = {"max_new_tokens": library.STEPS, "eos_token_id": None, "pad_token_id": 0}
    found = model.generate(input_ids=ids, pixel_values=PIXELS[:1], **options)
    assert found[0, -library.STEPS :].tolist() == wanted[0, -library.STEPS :].tolist()
    if kind == "opt":
        assert found[0, : ids.shape[1]].tolist() == ids[0].tolist()  # the placeholders are not part of it
    caption = model.generate(pixel_values=PIXELS[:1], **options)
    begin = {"input_ids": torch.tensor([[2]]), "pixel_values": PIXELS[:1]}
    assert caption[0, -library.STEPS :].tolist() == model.generate(**begin, **options)[0, -library.STEPS :].tolist()


def test_such_a_folder_is_asked_without_an_image_token(tmp_path: Path) -> None:
    first_release(tmp_path, "opt")
    byte_tokenizer(tmp_path, ["<pad>", "</s>"], bos="</s>", eos="</s>", pad="<pad>")
    said = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert "image_token_index" not in said
    model = pm.load(tmp_path)
    batch = model.processor([{"role": "user", "content": [PICTURE, "Hi"]}], generate=True)
    assert batch["input_ids"][0, : blip_2.QUERIES].tolist() == [blip_2.WORDS] * blip_2.QUERIES
    assert batch["input_ids"][0, blip_2.QUERIES].item() == model.processor.tokenizer.special("</s>")


PICTURE = pm.image(PIXELS[0].permute(1, 2, 0).mul(40).add(128).clamp(0, 255).to(torch.uint8).numpy())


@torch.no_grad()
def test_instructblip_too(tmp_path: Path) -> None:
    oracle = first_release(tmp_path, "llama", config="InstructBlipConfig", model="InstructBlipForConditionalGeneration")
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    asked = {"qformer_input_ids": ids, "qformer_attention_mask": torch.ones_like(ids)}
    whole = in_front(WORDS, MASK)
    wanted = library.logits(oracle, {**whole, "pixel_values": PIXELS, **asked})
    found = pm.load(tmp_path).logits(input_ids=WORDS, attention_mask=MASK, pixel_values=PIXELS, **asked)
    real = whole["attention_mask"].bool()
    assert max_abs_error(found[real], wanted[real]) < 1e-4
