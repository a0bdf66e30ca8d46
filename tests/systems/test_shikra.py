"""Shikra: pictures on white inside the sentence, boxes and points in the text, told from LLaVA by its class."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence import llava
from polymodal.check.evidence.shikra import SHIKRA, SPECIALS
from polymodal.data.chat_formats import VICUNA_SYSTEM
from polymodal.errors import ConfigError, MediaError, PromptError
from polymodal.systems.shikra import PLACES, SYSTEM

PICTURE = Pillow.fromarray(np.random.default_rng(0).integers(0, 255, (30, 61, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny folder as the official training leaves it, its tower beside it."""
    size = byte_tokenizer(tmp_path, SPECIALS, bos="<s>", eos="</s>", pad="<unk>")
    config = llava.small(size, tmp_path / "clip", **SHIKRA)
    write_config(tmp_path, config=config)
    spec = SYSTEM.formats[0].model_spec(config)
    write_weights(tmp_path, spec.build(), spec.keys[0])
    return tmp_path


def test_turns_are_written_as_in_training(folder: Path) -> None:
    processor = pm.load(folder).processor
    talk = [
        {"role": "user", "content": ["Where is the dog ", pm.image(PICTURE), "? answer in [x0,y0,x1,y1] format."]},
        {"role": "assistant", "content": "[0.100,0.200,0.300,0.400]"},
        {"role": "user", "content": "Why?"},
    ]
    batch = processor(talk, generate=True)
    text = processor.tokenizer.decode(batch["input_ids"][0].tolist(), skip_special=False)
    shown = f"<im_start>{'<im_patch>' * 16}<im_end>"
    assert text == (
        f"<s>{VICUNA_SYSTEM} USER: Where is the dog {shown}? answer in [x0,y0,x1,y1] format. ASSISTANT: "
        "[0.100,0.200,0.300,0.400]</s>USER: Why? ASSISTANT:"
    )
    answer = batch["labels"][0]
    assert processor.tokenizer.decode(answer[answer >= 0].tolist(), skip_special=False) == (
        " [0.100,0.200,0.300,0.400]</s>"
    )


def test_a_picture_is_squared_on_white(folder: Path) -> None:
    transformers = pytest.importorskip("transformers")
    square = Pillow.new("RGB", (61, 61), (255, 255, 255))
    square.paste(PICTURE, (0, 15))
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    wanted = processor(square, return_tensors="pt")["pixel_values"]
    found = pm.load(folder).processor([{"role": "user", "content": [pm.image(PICTURE)]}])["pixel_values"]
    assert (found - wanted).abs().max() < 1e-5


def official_box(box: tuple[float, ...], width: int, height: int) -> str:
    """A box in pixels as the published code writes it: shifted into the square, over its side, three decimals."""
    side = max(width, height)
    shift = ((side - width) // 2, (side - height) // 2)
    return f"[{','.join(f'{(x + shift[i % 2]) / side:.3f}' for i, x in enumerate(box))}]"


@pytest.mark.parametrize("size", [(640, 480), (333, 500), (64, 64)])
def test_boxes_are_written_and_read_as_published(size: tuple[int, int]) -> None:
    width, height = size
    box = (10.0, 20.0, width / 2, height * 0.9)
    share = tuple(x / size[i % 2] for i, x in enumerate(box))
    text = PLACES.write([share], size)
    assert text == official_box(box, width, height)
    # The published pattern finds it, and it comes back within half of the last decimal of the square's side.
    assert re.fullmatch(r"\[\d(?:\.\d*)?(?:,\d(?:\.\d*)?){3}(?:;\d(?:\.\d*)?(?:,\d(?:\.\d*)?){3})*\]", text)
    ((again,),) = PLACES.read(f"the dog {text} runs", size)
    assert again == pytest.approx(share, abs=0.0005 * max(size) / min(size) + 1e-9)


def test_several_boxes_points_and_what_is_no_place() -> None:
    boxes = [(0.0, 0.0, 0.5, 0.5), (0.25, 0.25, 1.0, 1.0)]
    text = PLACES.write(boxes, (100, 100))
    assert text == "[0.000,0.000,0.500,0.500;0.250,0.250,1.000,1.000]"
    assert PLACES.read(f"{text} and [0.100,0.200] and [1, 2]", (100, 100)) == [tuple(boxes)]
    assert PLACES.write([(0.1, 0.2)], (100, 100)) == "[0.100,0.200]"
    assert PLACES.read(f"{text} and [0.100,0.200]", (100, 100), numbers=2) == [((0.1, 0.2),)]
    # In the border above an oblong picture there is no picture: the box is cut.
    assert PLACES.read("[0.000,0.000,1.000,0.500]", (200, 100)) == [((0.0, 0.0, 1.0, 0.5),)]
    for wrong in ([], [(0.1, 0.2), (0.1, 0.2, 0.3, 0.4)]):
        with pytest.raises(PromptError, match="boxes alone or points alone"):
            PLACES.write(wrong, (10, 10))
    for outside in ((0.5, 0.1, 0.4, 0.2), (0.5, 0.1, 1.2, 0.2), (0.1, 0.2, 0.3)):
        with pytest.raises(PromptError, match=r"expected a point .* within 0\.\.1"):
            PLACES.write([outside], (10, 10))


def test_the_class_says_which_system_it_is(folder: Path) -> None:
    assert pm.load(folder).system.id == "shikra"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    named = {"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"]}
    write_config(folder, config={**config, **named})
    assert pm.load(folder).system.id == "llava"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mm_vision_tower": "EVA"}, "mm_vision_tower 'EVA' is neither"),
        ({"mm_projector_type": "qformer"}, "mm_projector_type 'qformer' is not supported"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_name(folder: Path, changes, words) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_config(folder, config=config | changes)
    with pytest.raises(ConfigError, match=words):
        pm.load(folder)


def test_a_strip_is_refused_before_it_is_padded(folder: Path) -> None:
    strip = pm.image(Pillow.new("RGB", (10_000, 1)))
    with pytest.raises(MediaError, match="10000 x 1 pixels is too large to pad"):
        pm.load(folder).processor([{"role": "user", "content": [strip]}])
