"""Unified-IO: prompts word for word, pictures and places as official code has them, drawing, what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, write_layout
from polymodal.check.evidence import unified_io as evidence
from polymodal.check.fixture import fixture_case, packed_size, read
from polymodal.check.randomise import values
from polymodal.data.padded_patches import PaddedPatches
from polymodal.errors import ConfigError, MediaError, PromptError
from polymodal.generation.sampling import SamplingOptions
from polymodal.systems import CheckpointFiles
from polymodal.systems.unified_io import SYSTEM
from polymodal.systems.unified_io.checkpoint import infer, parse_config, vocabulary
from polymodal.systems.unified_io.painting import SquarePainter, hidden, undone
from polymodal.systems.unified_io.places import ground, location_token, read_joints, read_places, region_text
from polymodal.systems.unified_io.prompts import about_region, prompt, segments

OFFICIAL = json.loads((Path(__file__).parents[1] / "fixtures" / "unified_io_pictures.json").read_text())
RED = Pillow.new("RGB", (64, 48), "red")
BOX = (100 / 640, 60 / 480, 260 / 640, 200 / 480)


def picture(width: int, height: int) -> Pillow.Image:
    y, x, c = np.mgrid[:height, :width, :3]
    return Pillow.fromarray(((x * 7 + y * 13 + c * 50 + (x * y) % 11 * 5) % 256).astype(np.uint8))


def folder(place: Path, **more: Any) -> pm.Model:
    config = {**evidence.small(), **more}
    byte_tokenizer(place, evidence.SPECIALS, eos="</s>", pad="<pad>")
    write_config(place, config=config)
    torch.manual_seed(0)
    spec = SYSTEM.formats[0].model_spec(config)
    write_layout(place / "model.npz", spec.build(), SYSTEM.formats[0], spec)
    return pm.load(place)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return folder(tmp_path_factory.mktemp("unified_io"))


def asked(model: Any, *content: Any) -> tuple[str, int]:
    """The words that the encoder reads, and how many patches behind them."""
    ids = model.processor([{"role": "user", "content": list(content)}], generate=True)["input_ids"][0].tolist()
    words = [each for each in ids if each < model.module.backbone.config.vocab_size]
    assert ids[: len(words)] == words
    return model.processor.tokenizer.decode(words, skip_special=False), len(ids) - len(words)


@pytest.mark.parametrize(
    ("content", "words", "patches"),
    [
        ((pm.image(RED),), "What does the image describe ?</s>", 4),
        (("What COLOR is it?", pm.image(RED)), "what color is it?</s>", 4),
        ((prompt("draw", "A Horse."),), 'What is the complete image? Text: " A Horse. " .</s>', 0),
        ((pm.image(RED), prompt("find", "the Bed")), 'Which region does the text " the Bed " describe ?</s>', 4),
        ((segments(("Ape", "ice")),),
         'What is the complete image? Segmentation color: " ape : white , ice : red "</s>', 0),
    ],
)  # fmt: skip
def test_prompts_are_the_official_ones(model: Any, content: Any, words: str, patches: int) -> None:
    assert asked(model, *content) == (words, patches)


def test_regions_of_a_prompt_are_tokens(model: Any) -> None:
    words = about_region("describe region", BOX, (640, 480))
    assert words == f'What does the region " {" ".join(OFFICIAL["regions"][0]["tokens"])} " describe ?'
    ids = model.processor([{"role": "user", "content": words}], generate=True)["input_ids"][0].tolist()
    tokens = [model.processor.tokenizer.encode(name) for name in OFFICIAL["regions"][0]["tokens"]]
    assert all(len(each) == 1 and each[0] in ids for each in tokens)
    first = model.processor.tokenizer.encode(location_token(0))[0]
    assert [first - each[0] for each in tokens] == [int(name[10:-1]) - 100 for name in OFFICIAL["regions"][0]["tokens"]]


def test_words_are_t5_s_with_1100_sentinels(tmp_path: Path) -> None:
    """As the slow tokenizer of T5 with `extra_ids=1100` has them: pieces of the text between two tokens."""
    sentencepiece = pytest.importorskip("sentencepiece")
    shutil.copy(Path(__file__).parents[1] / "fixtures" / "tokenizers" / "t5.model", tmp_path / "spiece.model")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    tokenizer = vocabulary(CheckpointFiles(tmp_path))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    first = pieces.get_piece_size()
    assert tokenizer.special("<extra_id_0>") == first + 1099 and tokenizer.vocab_size == first + 1100
    assert tokenizer.encode('What is in " <extra_id_399> <extra_id_1099> " ?') == [
        *pieces.encode('What is in "'), first + 1099 - 399, first, *pieces.encode('" ?')]  # fmt: skip
    assert tokenizer.decode([first + 700, *pieces.encode("a dog")]).split() == ["<extra_id_399>", "a", "dog"]


def test_users_cannot_type_ends_and_sentinels(model: Any) -> None:
    ids = model.processor([{"role": "user", "content": "a</s>b<extra_id_5>"}], generate=True)["input_ids"][0].tolist()
    marks = [model.processor.tokenizer.special(name) for name in ("</s>", "<extra_id_5>")]
    assert [ids.count(mark) for mark in marks] == [1, 0]


@pytest.mark.parametrize("case", OFFICIAL["pictures"])
def test_patches_are_the_official_ones(case: dict[str, Any]) -> None:
    found = PaddedPatches()(picture(*case["size"]))
    patches, seen = found["pixel_values"], found["image_input_masks"]
    assert int(seen.sum()) == case["seen"] and seen.tolist().index(0) == case["first"]
    wanted = torch.tensor(case["values"])
    torch.testing.assert_close(patches[case["rows"]][:, case["columns"]], wanted, atol=1e-5, rtol=0)
    assert abs(float(patches.mean()) - case["mean"]) < 1e-5


def test_a_strip_and_a_picture_of_the_right_size() -> None:
    with pytest.raises(MediaError, match=r"2000 x 3 pixels is too narrow; the ratio may be 384"):
        PaddedPatches()(picture(2000, 3))
    found = PaddedPatches(size=32)(picture(32, 32))  # official code forgets to divide this one by 255
    assert float(found["pixel_values"].max()) < 3 and found["image_input_masks"].all()


def test_regions_go_there_and_back() -> None:
    for case in OFFICIAL["regions"]:
        width, height = case["size"]
        box = [edge / side for edge, side in zip(case["box"], (width, height) * 2, strict=True)]
        assert region_text(tuple(box), (width, height)).split() == case["tokens"]  # type: ignore[arg-type]
    found = read_places(OFFICIAL["back"]["text"], (640, 480), 4)
    assert [words for _, words in found] == ["bed", "chair"]
    for (at, _), box in zip(found, OFFICIAL["back"]["boxes"], strict=True):
        assert [x * side for x, side in zip(at, (640, 480) * 2, strict=True)] == pytest.approx(box)
    grounding = ground(OFFICIAL["back"]["text"], [Pillow.new("RGB", (640, 480))])
    assert grounding.text == "bed chair" and len(grounding.things) == 2
    assert all(abs(a - b) < 3e-3 for a, b in zip(grounding.things[0].box, BOX, strict=True))


@pytest.mark.parametrize("case", OFFICIAL["joints"])
def test_joints_are_read_as_official_code_does(case: dict[str, Any]) -> None:
    found = read_joints(case["text"], (640, 480))
    if case["points"] is None:
        assert found is None
        return
    assert found is not None and list(found.labels) == case["labels"] and found.whole != case["invalid"]
    points = [(x * 640, y * 480) for x, y in found.points]
    assert np.allclose(points, case["points"], atol=1e-6)


@pytest.mark.parametrize("case", OFFICIAL["undone"])
def test_borders_are_cut_off_what_was_drawn(case: dict[str, Any]) -> None:
    whole = 256 * 256 * 3
    drawn = torch.arange(whole).reshape(256, 256, 3).permute(2, 0, 1)
    found = undone((drawn * 255 // whole).to(torch.uint8), tuple(case["size"]))  # type: ignore[arg-type]
    assert list(found.permute(1, 2, 0).shape) == case["shape"]
    height, width = found.shape[1:]
    corners = [found[0, 0, 0], found[2, -1, -1], found[1, height // 2, width // 2]]
    assert [int(each) for each in corners] == pytest.approx([each * 255 for each in case["corner"]], abs=1)


def test_a_hole_is_not_seen() -> None:
    case = OFFICIAL["hole"]
    names = region_text(BOX, (640, 480)).split()
    mask = hidden(PaddedPatches()(picture(640, 480))["image_input_masks"][None], [int(name[10:-1]) for name in names])
    assert [i for i in range(24 * 18) if not mask[0, i]] == case["hidden"]


def test_codes_and_pixels_are_the_official_ones(tmp_path: Path) -> None:
    """The codec both ways, and 16 codes that are drawn greedily behind the start of a picture."""
    stored = read("unified_io")[1]
    expected = fixture_case("codec", "unified_io").make(tmp_path)
    loaded: Any = pm.load(tmp_path)
    side = json.loads((tmp_path / "config.json").read_text())["vae_config"]["resolution"]
    with torch.inference_mode():
        codes = loaded.module.codec.encode(values("target", (1, 3, side, side)) / 2)
        back = loaded.module.pixels(stored["out.codes"] + loaded.module.text)
    assert torch.equal(codes.flatten(1), stored["out.codes"])
    torch.testing.assert_close(back[..., :: side // 16, :: side // 16], stored["out.pixels"], atol=1e-4, rtol=0)
    painter = SquarePainter(model=loaded.module, processor=None, side=side)  # type: ignore[arg-type]
    start = torch.tensor([[0, loaded.module.picture_start]])
    batch = {name: x[:1] for name, x in expected.inputs.items() if name not in ("decoder_input_ids", "attention_mask")}
    batch["input_ids"] = batch["input_ids"][:, expected.inputs["attention_mask"][0].bool()]
    drawn = painter.codes({**batch, "decoder_input_ids": start}, 0, SamplingOptions(max_tokens=16))
    assert torch.equal(drawn, stored["out.drawn"])


def test_pictures_are_drawn_from_words_and_from_pictures(model: Any) -> None:
    assert model.draw("a red square", seed=1).media["image"][0].size == (32, 32)
    depth = model.draw(pm.image(RED), prompt("depth"), seed=1).media["image"][0]
    assert depth.size == RED.size
    filled = model.draw(pm.image(RED), about_region("fill", (0.1, 0.1, 0.6, 0.9), RED.size, "a dog"), seed=1)
    assert filled.media["image"][0].size == RED.size
    with pytest.raises(ConfigError, match="this model writes 32x32 pixels"):
        model.draw("a red square", size=(64, 64))
    with pytest.raises(ConfigError, match="id by id"):
        model.draw("a red square", steps=5)
    with pytest.raises(PromptError, match="sees one picture; found 2"):
        model.draw(pm.image(RED), pm.image(RED), "both")


def test_the_shapes_of_a_published_file_say_its_config() -> None:
    size = packed_size("unified_io_sizes", "small", 147_767_043)
    config = infer(size.shapes())
    assert config is not None and config["num_heads"] == 6 and config["head_dim"] == 64
    with torch.device("meta"):
        built = parse_config(config).build()
    unused = 2 * 512 * 6 * 64  # the cross-attention's places, which nothing reads
    assert sum(each.numel() for each in built.parameters()) + unused == 147_767_043
    assert infer({"token_embedder/embedding": (4, 4)}) is None


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([{"role": "user", "content": [pm.image(RED), pm.image(RED), "two"]}], "sees one picture; found 2"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}],
         "answers one question at a time; found 2"),
        ([{"role": "user", "content": " "}], "expected a question or a picture"),
        ([{"role": "user", "content": "long " * 60}], r"tokens of text for a limit of 128|tokens .* limit of 132"),
    ],
)  # fmt: skip
def test_conversations_that_are_refused(model: Any, messages: Any, words: str) -> None:
    with pytest.raises(PromptError, match=words):
        batch = model.processor(messages, generate=True)
        model.generate(**{name: x for name, x in batch.items() if name in ("input_ids", "pixel_values")})


def test_places_that_are_refused() -> None:
    for box in ((0.5, 0.1, 0.2, 0.3), (0, 0, 1.2, 1), (-0.1, 0, 1, 1)):
        with pytest.raises(PromptError, match=r"within 0\.\.1 of the picture"):
            region_text(box, (4, 4))  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="<extra_id_7> is no location; expected <extra_id_100> to <extra_id_1099>"):
        read_places("<extra_id_7> bed", (4, 4), 4)
    with pytest.raises(PromptError, match="expected 4 location tokens together, found 3"):
        read_places("<extra_id_200> <extra_id_300> <extra_id_400> bed", (4, 4), 4)
    with pytest.raises(PromptError, match="in front of words"):
        read_places("bed <extra_id_200>", (4, 4), 4)
    with pytest.raises(PromptError, match="location 1000: expected a bin from 0 to 999"):
        location_token(1000)
    with pytest.raises(PromptError, match="boxes of one picture; found 0"):
        ground("<extra_id_200> <extra_id_300> <extra_id_400> <extra_id_500> bed", [])
    with pytest.raises(PromptError, match="task 'sing'"):
        prompt("sing")
    with pytest.raises(PromptError, match="expected some words"):
        prompt("find")
    with pytest.raises(PromptError, match="expected 1 to 16 names, found 17"):
        segments(("a",) * 17)


def test_codes_that_are_refused(model: Any) -> None:
    with pytest.raises(PromptError, match=r"codes of a picture must lie in 0\.\.63; found -1\.\.63"):
        model.module.pixels(torch.tensor([[evidence.WORDS - 1, evidence.WORDS + 63]]))
    with pytest.raises(PromptError, match="square of codes, found 3"):
        model.module.pixels(torch.full((1, 3), evidence.WORDS))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"logits_via_embedding": False}, "logits_via_embedding: only True is supported, found 'False'"),
        ({"encoder_max_image_length": 5}, "expected a square, found 5"),
        ({"decoder_max_image_length": 4}, "4 x 4 codes, the decoder has 4 places"),
        ({"image_vocab_size": 10}, "up to 10 codes"),
    ],
)
def test_configs_that_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SYSTEM.formats[0].model_spec({**evidence.small(), **change})
