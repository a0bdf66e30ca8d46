"""LWM: prompts id by id, two tables behind one mask, frames and their marks, codec and grammar, what is refused."""

from pathlib import Path

import pytest
import torch
from PIL import Image

import polymodal as pm
from polymodal.check import randomise
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence.lwm import SPECIALS, small
from polymodal.check.fixture import official_weights, read, store
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.errors import ConfigError, PromptError
from polymodal.nn.losses import shifted
from polymodal.pipelines.image_generation import PaintRequest
from polymodal.systems.lwm import SYSTEM, VISION

CODES, END = 24, 25


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("lwm")
    torch.manual_seed(0)
    size = byte_tokenizer(made, SPECIALS, bos="<s>", eos="</s>", pad="<unk>")
    write_config(made, config=small(size))
    spec = SYSTEM.formats[VISION].model_spec(small(size))
    write_weights(made, spec.build(), spec.keys[0])
    return made


@pytest.fixture(scope="module")
def model(folder: Path) -> pm.Model:
    return pm.load(folder)


def picture() -> Image.Image:
    return Image.new("RGB", (40, 20), (200, 30, 60))


def test_prompt_is_the_official_string_with_words_in_front_of_the_picture(model: pm.Model) -> None:
    asked = [Message(role="user", parts=(pm.image(picture()), Text("What is it?")))]
    ids = model.processor(asked, generate=True)["input_ids"][0]
    size = model.module.backbone.config.vocab_size
    assert int((ids == size).sum()) == 17  # 16 codes and the mark of the end
    around = model.processor.tokenizer
    before, after = ids[: ids.tolist().index(size)], ids[ids.tolist().index(size) + 17 :]
    assert around.decode(before.tolist()[1:]) == "You are a helpful assistant. USER: What is it?\n<vision>"
    assert around.decode(after.tolist()) == "</vision> ASSISTANT:"
    assert int(before[0]) == around.special("<s>")


def test_painting_prompts_are_the_official_strings(model: pm.Model) -> None:
    painter, tokenizer = model._parts.paint, model.processor.tokenizer
    for kind in ("an image", "a video"):
        words = f"You are a helpful assistant. USER: Generate {kind} of a cat ASSISTANT: <vision>"
        assert tokenizer.decode(painter.prompt("a cat", kind)[1:]) == words
    assert tokenizer.decode(painter.prompt("", "")[1:]) == "<vision>"


def test_a_mask_says_which_table_an_overlapping_id_is_of(model: pm.Model) -> None:
    module, text = model.module, model.module.text
    ids = torch.tensor([[5, 7, 7, 9]])
    mask = torch.tensor([[0, 1, 0, 0]])
    stacked = module(input_ids=torch.tensor([[5, text + 7, 7, 9]])).logits
    assert torch.equal(module(input_ids=ids, vision_masks=mask).logits, stacked)
    with pytest.raises(PromptError, match="ids of pictures lie below 26, found 30"):
        module(input_ids=torch.tensor([[5, 30]]), vision_masks=torch.tensor([[0, 1]]))


def test_each_kind_of_label_is_learned_among_its_own_kind(model: pm.Model) -> None:
    module, text = model.module, model.module.text
    ids = torch.tensor([[5, text + 7, text + 2, 9, 6]])
    output = module(input_ids=ids, labels=ids)
    targets, logits = shifted(ids)[0, :-1], output.logits[0, :-1]
    kinds = {"vision": (targets >= text, slice(text, None), text), "language_model": (targets < text, slice(text), 0)}
    for name, (side, columns, first) in kinds.items():
        wanted = torch.nn.functional.cross_entropy(logits[side][:, columns], targets[side] - first) / 2
        assert torch.allclose(output.losses[name], wanted, atol=1e-6)


def test_frames_of_a_video_have_a_mark_each_and_the_last_another(model: pm.Model) -> None:
    module, text = model.module, model.module.text
    frames = randomise.values("frames", (5, 3, 16, 16))
    first, second = module.tokens("video", {"video_values": frames, "frame_counts": (3, 2)})
    assert [len(first), len(second)] == [51, 34]
    assert first[16::17].tolist() == [text + CODES, text + CODES, text + END]
    assert torch.equal(first[17:33] - text, module.encoders["image"].encode(frames[1:2]).flatten())
    (alone,) = module.tokens("image", {"pixel_values": frames[:1]})
    assert alone[-1] == text + END


def test_codes_and_pixels_are_the_official_ones(tmp_path: Path) -> None:
    about, stored = read("lwm")
    (tmp_path / "config.json").write_text(about["config"], encoding="utf-8")
    store(official_weights(about), tmp_path / about["file"], "")
    codec = pm.load(tmp_path).module.encoders["image"]
    pixels = randomise.values("pixel_values", (3, 3, 16, 16))
    assert torch.equal(codec.encode(pixels), stored["out.codes"].long())
    with torch.no_grad():
        found = codec.decode(stored["out.codes"].long()).clamp(-1, 1)
    assert float((found - stored["out.pixels"]).abs().max()) <= 1e-4


def test_a_painted_picture_and_video_keep_the_length_of_their_frames(model: pm.Model) -> None:
    painter = model._parts.paint
    written = painter.picture("a cat", seed=1)
    assert len(written) == 17 and written[-1] == painter.model.text + CODES
    assert all(painter.model.text <= id < painter.model.text + CODES for id in written[:16])
    (found,) = painter(PaintRequest(text="a cat"))
    assert found.shape == (16, 16, 3) and found.dtype == torch.uint8
    assert painter.video("a cat", frames=3).shape == (3, 16, 16, 3)
    with pytest.raises(ConfigError, match="expected 2 frames or more, found 1"):
        painter.video("a cat", frames=1)
    with pytest.raises(ConfigError, match="size 32x16: this model writes 16x16 pixels"):
        painter(PaintRequest(text="a cat", size=(32, 16)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tie_vision_embeddings": True}, "tie_vision_embeddings is not supported"),
        ({"param_scan_axis": 1}, "expected 0, the layers first, found 1"),
        ({"vision_vocab_size": 25}, "expected the 24 codes and two marks, found 25"),
        ({"vqgan_config": {"attn_resolutions": [16]}}, "attention and resampling without a convolution"),
        ({"vqgan_config": {"resolution": 250}}, "resolution 250 is no multiple of 16"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SYSTEM.formats[VISION].model_spec(small(40, **changes))
