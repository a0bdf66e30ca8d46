"""Otter: the prompt of its training, pictures as CLIP's processor cuts them, frames by the official numbers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence.otter import small
from polymodal.check.film import film
from polymodal.data.messages import conversation
from polymodal.data.template import written
from polymodal.errors import ConfigError, PromptError
from polymodal.systems import get
from polymodal.systems.otter.checkpoint import ANSWER, END, IMAGE, PAD, frame_numbers, shots

FORMAT = get("otter").formats[0]
CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
WORDS = ("<unk>", "<s>", "</s>", END, IMAGE, ANSWER, PAD)


def stored(folder: Path, **changes: Any) -> pm.Model:
    """A tiny folder in the published format, loaded."""
    size = byte_tokenizer(folder, WORDS, bos="<s>", eos="</s>", pad=PAD)
    config = {**small(size, WORDS.index(IMAGE)), **changes}
    write_config(folder, config=config)
    torch.manual_seed(0)
    spec = FORMAT.model_spec(config)
    write_weights(folder, spec.build(), spec.keys[0])
    return pm.load(folder)


def grey_film(count: int) -> bytes:
    """A film of frames that are told apart by their grey."""
    return film([Pillow.new("RGB", (64, 48), (5 * index,) * 3) for index in range(count)])


def shot() -> list[dict[str, Any]]:
    picture = pm.image(np.zeros((8, 8, 3), dtype=np.uint8))
    return [
        {"role": "user", "content": [picture, "What is it?"]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": [picture, "And this?"]},
        {"role": "assistant", "content": "a dog"},
        {"role": "user", "content": "Which is larger?"},
    ]


@pytest.mark.parametrize(("kind", "first", "last"), [("llama", "<s>", "</s>"), ("mpt", *["<|endoftext|>"] * 2)])
def test_prompt_is_that_of_the_official_training(kind: str, first: str, last: str) -> None:
    asked = written(shots(kind).render(conversation(shot()), ask=True))
    assert asked == (
        f"{first}<image>User:What is it? GPT:<answer>a cat<|endofchunk|>"
        "<image>User:And this? GPT:<answer>a dog<|endofchunk|>User:Which is larger? GPT:<answer>"
    )
    told = shots(kind).render(conversation(shot()[:2]), ask=False)
    assert written(told) == f"{first}<image>User:What is it? GPT:<answer>a cat<|endofchunk|>{last}"
    learned = [getattr(each, "text", getattr(each, "name", "")) for each in told if getattr(each, "loss_mask", False)]
    assert learned == ["a cat", END, last]


def test_pixels_equal_the_library_s(tmp_path: Path) -> None:
    processing = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    theirs = processing.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    model, whole = stored(tmp_path), Pillow.open(CAT).convert("RGB")
    for image in (whole, whole.crop((0, 0, 301, 200)), whole.crop((5, 9, 133, 265))):
        batch = model.processor([{"role": "user", "content": [pm.image(np.asarray(image)), "What?"]}])
        expected = theirs(images=image, return_tensors="pt")["pixel_values"]
        assert (batch["vision_x"] - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("length", [1, 15, 16, 17, 40])
def test_frames_are_those_of_the_official_demonstration(length: int) -> None:
    step = length // 16
    assert frame_numbers(length) == [i * step for i in range(16)]


def test_clips_are_items_of_their_own(tmp_path: Path) -> None:
    model = stored(tmp_path, max_num_frames=20)
    asked = [{"role": "user", "content": [pm.video(grey_film(40)), "What happens?"]}]
    twice = [*asked, {"role": "assistant", "content": "It darkens."}, *asked]
    batch = model.processor([asked, twice], generate=True)
    assert batch["video_values"].shape == (3, 1, 16, 3, 32, 32)
    greys = (batch["video_values"][0, 0, :, 0, 16, 16] * 0.26862954 + 0.48145466) * 255 / 5
    assert greys.round().tolist() == frame_numbers(40)
    rows = [model.processor([each], generate=True) for each in (asked, twice)]
    together = model.logits(**batch)
    for row, alone in enumerate(rows):
        found = model.logits(**alone)
        torch.testing.assert_close(together[row, -found.shape[1] :], found[0], atol=1e-4, rtol=0)
    assert isinstance(model.chat(asked, max_tokens=4).text, str)
    with pytest.raises(PromptError, match="this model takes text, video; found image"):
        model.processor([{"role": "user", "content": [pm.image(str(CAT)), "What?"]}])


def test_other_options_are_refused(tmp_path: Path) -> None:
    config = small(300, 4)
    for change, reason in (
        ({"text_config": {"model_type": "falcon"}}, "text_config.model_type 'falcon'; expected one of mpt, llama"),
        ({"lora_config": {"r": 16}}, "lora_config: low-rank paths inside the file are not supported"),
        ({"perceiver_config": {"width": 3}}, r"perceiver_config \['width'\] is not supported"),
    ):
        with pytest.raises(ConfigError, match=reason):
            FORMAT.model_spec({**config, **change})
    stored(tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    write_config(tmp_path, config={**told, "media_token_id": 9})
    with pytest.raises(ConfigError, match="<image> is token 4 of the tokenizer, expected 9"):
        pm.load(tmp_path).chat("What?", max_tokens=1)
