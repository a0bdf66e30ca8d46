"""Qwen2-VL's prompts with pictures and videos mixed over several turns: ids, grids, pixels and positions.

The published processor's videos need torchvision.  Its own functions write the prompt here, for grids that the picture
processor of the library makes of the frames; the library's model gives the positions.
"""

from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
import transformers
from PIL import Image as Pillow
from test_library_prompts import CHATML, tokenizer

import polymodal as pm
from polymodal.checkpoints.record import CheckpointFiles
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.systems import get

RATE = 4
FILMS = [((96, 64), 4), ((160, 224), 7)]  # (width, height) and seconds of the two videos
TEMPLATE = CHATML.replace(
    "{% else %}{{ p.text }}",
    "{% elif p.type == 'video' %}<|vision_start|><|video_pad|><|vision_end|>{% else %}{{ p.text }}",
)
PICTURE = Pillow.fromarray(np.random.default_rng(0).integers(0, 255, (90, 120, 3), dtype=np.uint8))


def film(path, size, seconds):
    """A video of moving stripes, RATE frames a second, without loss."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("ffv1", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = *size, "bgr0"
        for index in range(int(seconds * RATE)):
            pixels = np.zeros((size[1], size[0], 3), np.uint8)
            pixels[:, (np.arange(size[0]) + 5 * index) // 16 % 2 == 0] = (200, 30 * (index % 8), 60)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        output.mux(stream.encode(None))
    return pm.video(path)


@pytest.fixture(scope="module")
def words():
    return tokenizer("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
                     "<|image_pad|>", "<|video_pad|>", pad_token="<|endoftext|>", eos_token="<|im_end|>",
                     chat_template=TEMPLATE)  # fmt: skip


@pytest.fixture(scope="module")
def ours(words, tmp_path_factory):
    """Our processor of a folder that the library writes; 28 x 28 pixels a token."""
    folder = tmp_path_factory.mktemp("qwen2-vl")
    words.save_pretrained(folder)
    transformers.Qwen2VLImageProcessorPil().save_pretrained(folder)
    known = words.get_added_vocab()
    config = {**get("qwen2-vl").variants[0].config, "image_token_id": known["<|image_pad|>"],
              "video_token_id": known["<|video_pad|>"], "vision_start_token_id": known["<|vision_start|>"],
              "vision_end_token_id": known["<|vision_end|>"]}  # fmt: skip
    return get("qwen2-vl").formats[0].model_spec(config).assemble(None, CheckpointFiles(folder)).processor


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    return [film(folder / f"{i}.mkv", size, seconds) for i, (size, seconds) in enumerate(FILMS)]


def talk(films):
    """Five turns: video and words, picture and another video, words."""
    said = [("user", [films[0], "What moves?"]), ("assistant", ["Stripes."]),
            ("user", ["And", pm.image(PICTURE), "beside", films[1], "?"]), ("assistant", ["A cat."]),
            ("user", ["Why?"])]  # fmt: skip
    return [Message(role=role, parts=tuple(Text(part) if isinstance(part, str) else part for part in parts))
            for role, parts in said]  # fmt: skip


def frames_of(video, seconds):
    """Two frames a second, an even number of them: the frames that the published processor takes."""
    found = video.clip(fps=2.0).frames
    assert len(found) == 2 * seconds
    return found


def patches(frames):
    """Patches and grid of a video by the library's picture processor: of each pair of frames, one half from either."""
    most = max(min(768 * 28 * 28, int(24576 * 28 * 28 / len(frames) * 2)), int(1.05 * 128 * 28 * 28))
    size = {"shortest_edge": 128 * 28 * 28, "longest_edge": most}
    single = transformers.Qwen2VLImageProcessorPil(size=size)
    made = [single([Pillow.fromarray(frame)], return_tensors="pt") for frame in frames]
    halves = [each["pixel_values"].unflatten(1, (3, 2, 14 * 14)) for each in made]
    pairs = [torch.stack((first[:, :, 0], second[:, :, 1]), 2).flatten(1)
             for first, second in zip(halves[::2], halves[1::2], strict=True)]  # fmt: skip
    grid = made[0]["image_grid_thw"][0].clone()
    grid[0] = len(frames) // 2
    return torch.cat(pairs), grid


def published(words, turns, images, videos):
    """The ids of the finished prompt, by the functions of the library's processor."""
    cls = transformers.Qwen2VLProcessor
    known = words.get_added_vocab()
    self = SimpleNamespace(
        image_processor=SimpleNamespace(merge_size=2), video_processor=SimpleNamespace(merge_size=2),
        image_token="<|image_pad|>", video_token="<|video_pad|>", audio_token=None,
        image_token_ids=[known["<|image_pad|>"]], video_token_ids=[known["<|video_pad|>"]], audio_token_ids=[],
        all_special_multimodal_tokens=["<|image_pad|>", "<|video_pad|>"],
    )  # fmt: skip
    kinds = {"Image": "image", "Video": "video"}
    plain = [{"role": m.role, "content": [
        {"type": "text", "text": p.text} if isinstance(p, Text) else {"type": kinds[type(p).__name__]} for p in m.parts
    ]} for m in turns]  # fmt: skip
    ask = turns[-1].role == "user"
    prompt = words.apply_chat_template(plain, add_generation_prompt=ask, tokenize=False)
    of_images = [cls.replace_image_token(self, {"image_grid_thw": images}, i) for i in range(len(images))]
    of_videos = [cls.replace_video_token(self, {"video_grid_thw": videos}, i) for i in range(len(videos))]
    (text,), _ = cls.get_text_with_replacements(self, [prompt], of_images, of_videos)
    ids = words(text)["input_ids"]
    return ids, cls.create_mm_token_type_ids(self, [ids])[0]


@pytest.fixture(scope="module")
def positions():
    """The library's own rule for positions."""
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
             "num_key_value_heads": 2, "vocab_size": 300}  # fmt: skip
    vision = {"embed_dim": 16, "depth": 1, "num_heads": 2, "hidden_size": 32}
    config = transformers.Qwen2VLConfig(text_config=small, vision_config=vision)
    return transformers.Qwen2VLModel(config).get_rope_index


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5])
def test_turns_with_pictures_and_videos(words, ours, films, positions, count):
    turns = talk(films)[:count]
    shown = list(zip(films, FILMS, strict=True))[: 1 if count < 3 else 2]
    seen = [patches(frames_of(film, seconds)) for film, (_, seconds) in shown]
    picture = transformers.Qwen2VLImageProcessorPil()([PICTURE], return_tensors="pt")
    images = picture["image_grid_thw"][: int(count >= 3)]
    videos = torch.stack([grid for _, grid in seen])
    ids, kinds = published(words, turns, images, videos)
    batch = ours(turns, generate=turns[-1].role == "user")
    assert batch["input_ids"][0].tolist() == ids
    assert torch.equal(batch["video_grid_thw"], videos)
    wanted = torch.cat([values for values, _ in seen])
    assert (batch["pixel_values_videos"] - wanted).abs().max() < 2e-2  # one level of a byte, by the resize
    if len(images):
        assert torch.equal(batch["image_grid_thw"], images)
    row = torch.tensor([ids])
    found, _ = positions(row, torch.tensor([kinds]), images if len(images) else None, videos, torch.ones_like(row))
    assert torch.equal(batch["position_ids"], found)
