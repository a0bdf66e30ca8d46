"""GroundingGPT (LEGO): the prompt, which frames are seen, padding, boxes as published, refusals."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence.lego import small
from polymodal.check.film import film
from polymodal.data.chat_formats import LLAVA_SYSTEM
from polymodal.errors import ConfigError, PromptError
from polymodal.systems.lego import PLACES, SYSTEM
from polymodal.systems.lego.checkpoint import frame_indices

RANDOM = np.random.default_rng(0)
FRAMES = [Pillow.fromarray(RANDOM.integers(0, 255, (60, 100, 3), dtype=np.uint8)) for _ in range(6)]

SILENCE = pm.audio((np.zeros(16000, np.float32), 16000))


def written(folder: Path, **changes) -> pm.Model:
    size = byte_tokenizer(folder, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>")
    config = {**small(size + 9, folder / "clip"), **changes}
    write_config(folder, config=config)
    spec = SYSTEM.formats[0].model_spec(config)
    write_weights(folder, spec.build(), spec.keys[0])
    return pm.load(folder)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> pm.Model:
    return written(tmp_path_factory.mktemp("lego"))


def test_turns_are_written_as_published(model: pm.Model) -> None:
    """conv_vicuna_v0 of the official code: SeparatorStyle.SINGLE, items between their marks, a line end behind them."""
    talk = [
        {"role": "user", "content": [pm.image(FRAMES[0]), "Where is the dog?"]},
        {"role": "assistant", "content": "[0.1, 0.2, 0.3, 0.4]"},
        {"role": "user", "content": [pm.video(film(FRAMES)), SILENCE, "And?"]},
    ]
    processor = model.processor
    ids = processor(talk, generate=True)["input_ids"][0]
    text = processor.tokenizer.decode(ids[ids >= 0].tolist(), skip_special=False)
    items = [f"<{kind}_start>{f'<{kind}_patch>' * count}<{kind}_end>\n" for kind, count in
             (("im", 16), ("vi", 4), ("so", 4))]  # fmt: skip
    assert text == (
        f"<s>{LLAVA_SYSTEM}###Human: {items[0]}Where is the dog?###Assistant: [0.1, 0.2, 0.3, 0.4]"
        f"###Human: {items[1]}{items[2]}And?###Assistant:"
    )
    assert model.chat(talk, max_tokens=2).tokens["image"] == 16


def test_frames_are_spread_over_the_video(model: pm.Model) -> None:
    """As np.arange(0, frames, frames / most) of the official code."""
    assert (
        frame_indices(10, 4) == [0, 2, 5, 7] and frame_indices(3, 64) == [0, 1, 2] and len(frame_indices(131, 64)) == 64
    )
    long, short = pm.video(film(FRAMES * 12)), pm.video(film(FRAMES[:2]))
    counts = [model.processor([{"role": "user", "content": [item, "Q"]}])["frame_counts"] for item in (long, short)]
    assert counts == [(64,), (2,)]


def test_pictures_are_padded_with_the_mean_colour(model: pm.Model) -> None:
    transformers = pytest.importorskip("transformers")
    square = Pillow.new("RGB", (100, 100), tuple(int(x * 255) for x in (0.48145466, 0.4578275, 0.40821073)))
    square.paste(FRAMES[0], (0, 20))
    theirs = transformers.CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    found = model.processor([{"role": "user", "content": [pm.image(FRAMES[0])]}])["pixel_values"]
    assert (found - theirs(square, return_tensors="pt")["pixel_values"]).abs().max() < 1e-5


def test_every_sense_reaches_the_answer(model: pm.Model) -> None:
    noise = pm.audio((RANDOM.normal(size=48000) / 9, 16000))
    pictures, films = [pm.image(each) for each in FRAMES[:2]], [pm.video(film(FRAMES[:3])), pm.video(film(FRAMES[3:]))]
    for item, other in (pictures, films, (SILENCE, noise)):
        batches = [model.processor([{"role": "user", "content": [each, "Q"]}]) for each in (item, other)]
        (one,), (two,) = (model.features(**batch).values() for batch in batches)
        assert one.shape == two.shape and (one - two).abs().max() > 1e-5


def test_boxes_are_read_as_published() -> None:
    """postprocess_output of the official code: numbers of the padded square, a comma and a space between them."""
    text = PLACES.write([(0.0, 0.0, 0.5, 1.0)], (200, 100))
    assert text == "[0.000, 0.250, 0.500, 0.750]"
    assert re.fullmatch(r"\[[0-9.]+, [0-9.]+, [0-9.]+, [0-9.]+\]", text)
    assert PLACES.read(f"It is at {text}.", (200, 100)) == [((0.0, 0.0, 0.5, 1.0),)]


def test_saved_folders_answer_alike(model: pm.Model, tmp_path: Path) -> None:
    model.save(tmp_path / "saved")
    batch = model.processor([{"role": "user", "content": [pm.video(film(FRAMES)), "Q"]}])
    again = pm.load(tmp_path / "saved")
    with torch.no_grad():
        assert torch.equal(model.module(**batch).logits, again.module(**batch).logits)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mm_use_im_start_end": False}, "lego: mm_use_im_start_end false is not supported; expected true"),
        ({"mm_vision_tower": "EVA"}, "mm_vision_tower 'EVA' is neither"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_name(changes: dict, words: str, tmp_path: Path) -> None:
    config = json.loads(json.dumps({**small(100, tmp_path / "clip"), **changes}))
    with pytest.raises(ConfigError, match=words):
        SYSTEM.formats[0].model_spec(config)


def test_too_long_a_video_names_its_tokens_and_the_limit(tmp_path: Path) -> None:
    processor = written(tmp_path, max_position_embeddings=150).processor
    with pytest.raises(PromptError, match=r"4 video\) for a limit of 150"):
        processor([{"role": "user", "content": [pm.video(film(FRAMES)), "Q"]}], generate=True)
