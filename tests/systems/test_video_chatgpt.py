"""Video-ChatGPT: which frames are looked at, how they are shrunk, the prompt, the published file in LLaVA's folder."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence import llava
from polymodal.check.evidence.video_chatgpt import EVIDENCE, NAMED
from polymodal.check.film import film
from polymodal.data.dummy_items import dummy_items
from polymodal.errors import ConfigError, PromptError
from polymodal.systems.video_chatgpt import SYSTEM
from polymodal.systems.video_chatgpt.checkpoint import SYSTEM_WORDS, frame_indices

SPECIALS = ["<unk>", "<s>", "</s>"]
RANDOM = np.random.default_rng(0)
FRAMES = [Pillow.fromarray(RANDOM.integers(0, 255, (96, 300, 3), dtype=np.uint8)) for _ in range(7)]
# get_seq_frames of mbzuai-oryx/Video-ChatGPT @ 659e04b: frames -> how many, the first six, the last two, their sum.
PUBLISHED = {
    1: (1, [0], [0], 0),
    2: (2, [0, 0], [0, 0], 0),
    7: (7, [0, 1, 2, 3, 3, 4], [4, 5], 18),
    100: (100, [0, 1, 2, 3, 4, 5], [97, 98], 4901),
    101: (100, [0, 1, 2, 3, 4, 5], [98, 99], 4950),
    250: (100, [1, 3, 6, 8, 11, 13], [245, 248], 12426),
    9000: (100, [45, 135, 225, 315, 405, 495], [8864, 8954], 449950),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> pm.Model:
    folder = tmp_path_factory.mktemp("video-chatgpt")
    size = byte_tokenizer(folder, SPECIALS, bos="<s>", eos="</s>", pad="<unk>")
    config = llava.small(size + 3, folder / "clip", **NAMED)
    write_config(folder, config=config)
    spec = SYSTEM.formats[0].model_spec(config)
    write_weights(folder, spec.build(), spec.keys[0])
    return pm.load(folder)


@pytest.mark.parametrize("total", PUBLISHED)
def test_frames_are_those_of_the_published_sampler(total: int) -> None:
    count, first, last, whole = PUBLISHED[total]
    found = frame_indices(total)
    assert (len(found), found[:6], found[-2:], sum(found)) == (count, first, last, whole)


def test_frames_are_shrunk_to_the_nearest_pixel_and_read_by_clip_s_processor(model: pm.Model) -> None:
    transformers = pytest.importorskip("transformers")
    video = pm.video(film(FRAMES))
    assert len(video.frame_times) == 7
    rows, columns = np.arange(224) * 96 // 224, np.arange(224) * 300 // 224
    nearest = [np.asarray(FRAMES[i])[rows][:, columns] for i in frame_indices(7)]
    theirs = transformers.CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    wanted = theirs([Pillow.fromarray(frame) for frame in nearest], return_tensors="pt")["pixel_values"]
    batch = model.processor([{"role": "user", "content": [video, "Q"]}])
    assert (batch["video_values"] - wanted).abs().max() < 1e-5 and batch["frame_counts"] == (7,)


def test_the_video_stands_behind_the_question(model: pm.Model) -> None:
    talk = [
        {"role": "user", "content": [pm.video(film(FRAMES)), "What happens?"]},
        {"role": "assistant", "content": "Noise."},
        {"role": "user", "content": "Why?"},
    ]
    processor = model.processor
    ids = processor(talk, generate=True)["input_ids"][0].tolist()
    shown = f"<vid_start>{'<vid_patch>' * 116}<vid_end>"
    assert processor.tokenizer.decode(ids, skip_special=False) == (
        f"<s>{SYSTEM_WORDS} USER: What happens?\n{shown} ASSISTANT: Noise.</s>USER: Why? ASSISTANT:"
    )
    assert "natural language.Follow" in SYSTEM_WORDS  # without a space, as published
    assert model.chat(talk, max_tokens=2).tokens["video"] == 116


def test_videos_of_unequal_length_in_one_batch_and_dummies(model: pm.Model) -> None:
    talks = [[{"role": "user", "content": [pm.video(film(FRAMES[:n])), "Q"]}] for n in (2, 7)]
    batch = model.processor(talks, generate=True)
    assert batch["frame_counts"] == (2, 7)
    whole = model.logits(**batch)[1, -1]
    alone = model.logits(**model.processor(talks[1], generate=True))[0, -1]
    torch.testing.assert_close(whole, alone, atol=1e-4, rtol=0)
    assert dummy_items(model.processor)["video"].shape == (2, 3, 56, 56)


def test_too_many_frames_are_refused(model: pm.Model) -> None:
    ids = torch.tensor([[1, *[model.module.placeholders["video"]] * 116]])
    with pytest.raises(PromptError, match="a video of 101 frames; this model takes 100 at most"):
        model.logits(input_ids=ids, video_values=torch.zeros(101, 3, 56, 56))
    with pytest.raises(PromptError, match="video-chatgpt cannot read image; it takes text, video"):
        model.chat(pm.image(FRAMES[0]), "Q")


def test_the_published_file_in_llava_s_folder_is_saved_as_one_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "made").mkdir()
    expected = EVIDENCE.cases[1].make(tmp_path / "made")
    assert pm.load(tmp_path / "made").system.id == "llava"
    model = pm.load(tmp_path / "made", **expected.call)
    again = pm.load(model.save(tmp_path / "saved"))
    assert again.system.id == "video-chatgpt"
    torch.testing.assert_close(again.logits(**expected.inputs), expected.logits, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mm_vision_tower": "EVA"}, "mm_vision_tower 'EVA' is neither"),
        ({"rope_scaling": {"type": "odd", "factor": 2.0}}, "odd"),
        ({"hidden_size": None}, "hidden_size"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_name(changes: dict, words: str, tmp_path: Path) -> None:
    config = json.loads(json.dumps({**llava.small(100, tmp_path / "clip", **NAMED), **changes}))
    with pytest.raises(ConfigError, match=words):
        SYSTEM.formats[0].model_spec(config).build()
