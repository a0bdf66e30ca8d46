"""LLaMA-VID: which frames are seen and with which question, the prompt, EVA's file beside the checkpoint, refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence.llama_vid import EVIDENCE, small
from polymodal.check.film import film
from polymodal.checkpoints.clips import second_of
from polymodal.data.chat_formats import VICUNA_SYSTEM
from polymodal.data.dummy_items import dummy_items
from polymodal.errors import ConfigError, PromptError, WeightsError
from polymodal.systems.llama_vid import SYSTEM
from polymodal.systems.llama_vid.checkpoint import PLACEHOLDERS, READER

RANDOM = np.random.default_rng(0)
FRAMES = [Pillow.fromarray(RANDOM.integers(0, 255, (30, 61, 3), dtype=np.uint8)) for _ in range(10)]


def written(folder: Path, **changes) -> pm.Model:
    (folder / READER).mkdir()
    words = byte_tokenizer(folder / READER, ["[PAD]", "[CLS]", "[SEP]"], pad="[PAD]")
    size = byte_tokenizer(folder, ["<unk>", "<s>", "</s>"], bos="<s>", eos="</s>", pad="<unk>")
    config = {**small(size, words), **changes}
    write_config(folder, config=config)
    spec = SYSTEM.formats[0].model_spec(config)
    write_weights(folder, spec.build(), spec.keys[0])
    return pm.load(folder)


def test_each_item_is_asked_with_the_words_of_its_message(tmp_path: Path) -> None:
    model = written(tmp_path)
    processor = model.processor
    talk = [
        {"role": "user", "content": [pm.video(film(FRAMES)), "What\nmoves?"]},
        {"role": "assistant", "content": "Noise."},
        {"role": "user", "content": [pm.image(FRAMES[0]), "And this?"]},
    ]
    batch = processor(talk, generate=True)
    ids = batch["input_ids"][0]
    assert (ids == PLACEHOLDERS["video"]).sum() == 3 * 2 and (ids == PLACEHOLDERS["image"]).sum() == 2
    text = processor.tokenizer.decode(ids[ids >= 0].tolist(), skip_special=False)
    assert text == f"<s>{VICUNA_SYSTEM} USER: \nWhat\nmoves? ASSISTANT: Noise.</s>USER: \nAnd this? ASSISTANT:"
    reader = processor.modalities["image"].transform.reader
    for name, words in (("video_qformer_input_ids", "Whatmoves?"), ("qformer_input_ids", "And this?")):
        assert reader.decode(batch[name][0].tolist(), skip_special=False) == f"[CLS]{words}[SEP]"
    counted = model.chat(talk, max_tokens=2).tokens
    assert (counted["video"], counted["image"]) == (6, 2)
    other = {**batch, "qformer_input_ids": batch["qformer_input_ids"].flip(1)}
    assert (model.features(**batch)["image"][0] - model.features(**other)["image"][0]).abs().max() > 1e-6


def test_one_frame_a_second_is_seen(tmp_path: Path) -> None:
    """As range(0, frames, round(frames a second)) of the official code."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    processor = written(tmp_path).processor
    video = pm.video(film(FRAMES, rate=4))
    batch = processor([{"role": "user", "content": [video, "Q"]}])
    wanted = theirs([FRAMES[i] for i in (0, 4, 8)], return_tensors="pt")["pixel_values"]
    assert batch["frame_counts"] == (3,) and (batch["video_values"] - wanted).abs().max() < 1e-5
    assert [second_of(np.arange(9) / rate) for rate in (29.97, 24.4, 0.3)] == [30, 24, 1] and second_of(
        np.zeros(1)
    ) == 1


def test_pictures_are_padded_where_the_config_says_so(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    square = Pillow.new("RGB", (61, 61), tuple(int(x * 255) for x in (0.48145466, 0.4578275, 0.40821073)))
    square.paste(FRAMES[0], (0, 15))
    theirs = transformers.CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    found = written(tmp_path, image_aspect_ratio="pad").processor([{"role": "user", "content": [pm.image(FRAMES[0])]}])
    assert (found["pixel_values"] - theirs(square, return_tensors="pt")["pixel_values"]).abs().max() < 1e-5


def test_a_long_question_keeps_its_end_and_dummies_are_made(tmp_path: Path) -> None:
    processor = written(tmp_path).processor
    batch = processor([{"role": "user", "content": [pm.image(FRAMES[0]), "a" * 300 + "z"]}])
    ids = batch["qformer_input_ids"][0].tolist()
    assert len(ids) == 256 and processor.modalities["image"].transform.reader.decode(ids[-2:-1]) == "z"
    assert dummy_items(processor)["video"]["frames"].shape[1:] == (3, 56, 56)


def test_too_long_a_video_names_its_tokens_and_the_limit(tmp_path: Path) -> None:
    processor = written(tmp_path, max_position_embeddings=200).processor
    with pytest.raises(PromptError, match=r"245 tokens \(165 text and 80 video\) for a limit of 200"):
        processor([{"role": "user", "content": [pm.video(film(FRAMES * 4, rate=1)), "Q"]}])


def test_a_saved_checkpoint_holds_its_tower(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "made").mkdir()
    expected = EVIDENCE.cases[2].make(tmp_path / "made")  # positions are resized on the way in
    model = pm.load(tmp_path / "made")
    again = pm.load(model.save(tmp_path / "saved"))
    assert again.system.id == "llama-vid"
    torch.testing.assert_close(again.logits(**expected.inputs), expected.logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"bert_type": "raw_bert_layer:2"}, ConfigError, "bert_type 'raw_bert_layer:2' is not supported"),
        ({"mm_vision_tower": "openai/clip-vit-large-patch14"}, ConfigError, "expected EVA's file eva_vit_g.pth"),
        ({"compress_type": "max"}, ConfigError, "compress_type 'max' is not supported; expected null, mean or grid:N"),
        ({"compress_type": "grid:3"}, ConfigError, "a grid of 3 a side does not divide 16 patches"),
        ({"image_processor": "./clip"}, ConfigError, "image_processor 'clip' does not end in the pixels of a side"),
        ({"mm_use_im_start_end": True}, ConfigError, "mm_use_im_start_end are not supported"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_name(changes: dict, error: type, words: str, tmp_path: Path) -> None:
    written(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    write_config(tmp_path, config=config | changes)
    with pytest.raises(error, match=words):
        pm.load(tmp_path)


def test_a_checkpoint_without_eva_s_file_says_so(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    EVIDENCE.cases[0].make(tmp_path)
    (tmp_path / "eva_vit_g.pth").unlink()
    with pytest.raises(WeightsError, match=r"leaves out its vision tower '\./model_zoo/LAVIS/eva_vit_g\.pth'; fetch"):
        pm.load(tmp_path)
