"""Unified-IO 2: words as official code cuts them, pictures, sounds and places there and back, what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, write_layout
from polymodal.check.evidence import unified_io_2 as evidence
from polymodal.check.fixture import fixture_case, read
from polymodal.check.randomise import values
from polymodal.cli.app import run
from polymodal.cli.boxes import Pictures, write_boxes
from polymodal.errors import ConfigError, MediaError, PromptError
from polymodal.generation.sampling import SamplingOptions
from polymodal.pipelines.grounding import Joint, Pose
from polymodal.systems import CheckpointFiles
from polymodal.systems.unified_io_2 import SYSTEM
from polymodal.systems.unified_io_2.painting import SOUND_MEAN, SOUND_STD, CodePainter
from polymodal.systems.unified_io_2.places import (
    JOINTS,
    Square,
    ground,
    pose_text,
    read_boxes,
    read_pose,
    region_text,
)
from polymodal.systems.unified_io_2.poses import PoseReader
from polymodal.systems.unified_io_2.processing import RATE, Piece, picture_patches, sound_patches, split
from polymodal.systems.unified_io_2.vocabulary import vocabulary
from polymodal.systems.unified_io_2.vocoder import CONFIG, VOICE, Voice, vocoder_config

PLACES = json.loads((Path(__file__).parents[1] / "fixtures" / "unified_io_2_places.json").read_text())
RED = Pillow.new("RGB", (64, 32), "red")
# uio2/vocabulary.py of allenai/unified-io-2.pytorch @ 6e487bec on tests/fixtures/tokenizers/llama.model
OFFICIAL = {
    "[Text] [S] What is in this picture?": [1818, 473, 372, 283, 318, 263, 324, 304, 534],
    "[Image] [S] a cat": [1821, 259, 272, 278],
    "[Audio] [S] It rains": [1823, 295, 512, 405, 511],
    "Where is <extra_id_200> <extra_id_1199> ?": [473, 518, 509, 261, 283, 1599, 600, 470],
    "the picture <image_input> and <audio_history_3> words": [265, 304, 1816, 284, 1805, 321],
    "x<extra_id_5>y": [508, 123, 63, 509, 123, 512, 514, 510, 98, 516, 517, 98, 576, 65, 532],
}


def tiny(place: Path, **changes: int) -> Any:
    """A tiny random model; changes: of its t5_config."""
    config = evidence.small()
    config["t5_config"] |= changes
    byte_tokenizer(place, evidence.SPECIALS, bos="<s>", eos="</s>", pad="<s>")
    write_config(place, config=config)
    torch.manual_seed(0)
    spec = SYSTEM.formats[0].model_spec(config)
    write_layout(place / "pytorch_model.bin", spec.build(), SYSTEM.formats[0], spec)
    return pm.load(place)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny(tmp_path_factory.mktemp("unified_io_2"))


def sound(seconds: float) -> Any:
    return pm.audio((np.sin(np.arange(int(seconds * RATE)) / 20).astype(np.float32), RATE))


def batch(model: Any, *content: Any) -> dict[str, Any]:
    return model.processor([{"role": "user", "content": list(content)}], generate=True)


@pytest.mark.parametrize(("text", "ids"), OFFICIAL.items())
def test_words_are_cut_as_official_code_cuts_them(tmp_path: Path, text: str, ids: list[int]) -> None:
    shutil.copy(Path(__file__).parents[1] / "fixtures" / "tokenizers" / "llama.model", tmp_path / "tokenizer.model")
    words = vocabulary(CheckpointFiles(tmp_path), 2000)
    assert words.encode(text) == ids and words.vocab_size == 1825
    assert words.decode([1499, 1399, 259, 272, 278]) == "<extra_id_300> <extra_id_400> a cat"
    with pytest.raises(ConfigError, match="1825 words and names for a vocabulary of 1000"):
        vocabulary(CheckpointFiles(tmp_path), 1000)


def test_the_question_has_its_prefix_and_media_stand_behind_it(model: Any) -> None:
    found = batch(model, pm.image(RED), "What is it?", pm.image(RED), sound(9))
    ids = found["input_ids"][0].tolist()
    words = [each for each in ids if each < model.module.backbone.config.vocab_size]
    assert model.processor.tokenizer.decode(words, skip_special=False).strip() == "[Text] [S] What is it?</s>"
    assert ids[: len(words)] == words
    kinds = {name: ids.count(id) for name, id in model.processor.placeholders.items()}
    assert kinds == {"image": 4, "image_history": 2, "audio": 128, "audio_history": 2}


def test_codes_and_sounds_are_the_official_ones(tmp_path: Path) -> None:
    """Both codecs both ways, logits behind codes, and what is drawn and sung greedily."""
    stored = read("unified_io_2")[1]
    expected = fixture_case("codecs", "unified_io_2").make(tmp_path)
    module: Any = pm.load(tmp_path).module
    first, song = module.tables.span("image")[0] + 2, module.tables.span("audio")[0] + 2
    with torch.inference_mode():
        codes = module.codecs["image"].encode(values("target", (1, 32, 32, 3)).permute(0, 3, 1, 2) / 2).flatten(1)
        tones = module.targets("audio", values("sound", (1, 32, 16, 1)).permute(0, 3, 2, 1))["labels"] - song
        pixels, mels = module.written("image", stored["out.codes"] + first), module.written("audio", tones + song)
        for kind in ("image", "audio"):
            given = {**expected.inputs, "decoder_input_ids": stored[f"out.{kind}_ids"]}
            torch.testing.assert_close(module(**given).logits, stored[f"out.{kind}_logits"], atol=1e-4, rtol=0)
    assert torch.equal(codes, stored["out.codes"]) and torch.equal(tones, stored["out.tones"])
    torch.testing.assert_close(pixels, stored["out.pixels"], atol=1e-4, rtol=0)
    torch.testing.assert_close(mels, stored["out.mels"], atol=1e-4, rtol=0)
    real = expected.inputs["attention_mask"][0].bool()
    counts = {"pixel_values": 1, "image_input_masks": 1, "history_values": 1, "history_masks": 1, "segment_values": 2,
              "segment_masks": 2}  # fmt: skip
    prompt = {name: expected.inputs[name][:count] for name, count in counts.items()}
    prompt["input_ids"] = expected.inputs["input_ids"][:1, real]

    class Asked(CodePainter):
        def batch(self, kind: str, wish: str, media: Any = ()) -> dict[str, Any]:
            return {**prompt, "decoder_input_ids": torch.tensor([[self.model.tables.span(kind)[0]]])}

    painter = Asked(model=module, processor=None)  # type: ignore[arg-type]
    for kind, name in (("image", "drawn"), ("audio", "sung")):
        wanted = stored[f"out.{name}"]
        drawn = painter.codes(kind, "", SamplingOptions(max_tokens=wanted.shape[1]), scale=0)
        assert torch.equal(drawn, wanted)


def test_pictures_and_sounds_are_written(model: Any) -> None:
    drawn = model.draw("a red square", seed=1).media["image"][0]
    assert drawn.size == (32, 32)
    assert model.draw(pm.image(RED), "What is the depth map of the image ?", seed=1).media["image"]
    with pytest.raises(ConfigError, match="this model writes 32x32 pixels"):
        model.draw("a red square", size=(64, 64))


def test_sounds_are_written_to_files(model: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    with pytest.raises(ConfigError, match=r"no vocoder/config\.json, so it makes no sound; put config\.json and g_0"):
        model.compose("a bell", make="audio", step=lambda *where: told.append(where))
    assert model.makes == ("image", "audio") and not told
    evidence.write_voice(Path(model.path) / VOICE)
    both = model.compose("a bell", make=("audio", "image"), seed=4, step=lambda *where: told.append(where))
    codes = 32 + 16
    assert told == [(number, codes) for number in range(1, codes + 1)] and both.tokens["generated"] == codes
    (sound,) = both.media["audio"]
    assert sound.samples(RATE).shape == (65_536,) and both.media["image"][0].size == (32, 32)
    again = model.draw("a bell", seed=4, drawing={"make": "audio"}).media["audio"][0]
    assert np.array_equal(again.samples(RATE), sound.samples(RATE))
    file = tmp_path / "bell.wav"
    code = run(["draw", str(model.path), "a bell", "--out", str(file), "--seed", "4"])
    assert (code, *capsys.readouterr()) == (0, "", f"{file}: 4.096 s of sound\n")
    assert np.abs(pm.audio(file).samples(RATE) - sound.samples(RATE)).max() < 1e-4
    for wishes, words in (({"mix": {"text": 2.0}}, "does not weigh"), ({"steps": 3}, "not in steps of diffusion"),
                          ({"size": (32, 32)}, "a sound has no width")):  # fmt: skip
        with pytest.raises(ConfigError, match=words):
            model.compose("a bell", make="audio", **wishes)


def test_samples_are_those_of_the_official_converter(tmp_path: Path) -> None:
    """What the codec writes -> samples, by the port's SpectogramConverter."""
    case = fixture_case("vocoder", "unified_io_2_vocoder")
    (tmp_path / VOICE).mkdir()
    case.make(tmp_path / VOICE)
    wanted = read("unified_io_2_vocoder")[1]["out.converted"]
    made = Voice(tmp_path).samples(values("mels", (128, 12)) * SOUND_STD + SOUND_MEAN)
    assert float((made - wanted).abs().max()) < 1e-5 and float(wanted.abs().max()) > 0.5


@pytest.mark.parametrize(
    ("change", "words"),
    [({"num_mels": 80}, "num_mels: expected 128, found 80"), ({"sampling_rate": 22050}, "expected 16000, found 22050"),
     ({"resblock": "3"}, "resblock: expected '1' or '2', found '3'")],
)  # fmt: skip
def test_vocoders_that_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        vocoder_config({**CONFIG, **change})
    assert not SYSTEM.formats[1].matches({**CONFIG, "code_hop_size": 320})


def test_pictures_stand_in_the_middle_and_sounds_in_windows() -> None:
    made = picture_patches(Piece(np.asarray(RED)), (4, 4), "values", "masks")
    assert made["masks"].reshape(4, 4).tolist() == [[0] * 4, [1] * 4, [1] * 4, [0] * 4]
    with pytest.raises(MediaError, match="2000 x 3 pixels is too narrow"):
        picture_patches(Piece(np.zeros((3, 2000, 3), dtype=np.uint8)), (4, 4), "values", "masks")
    assert [len(split(np.zeros(int(seconds * RATE), dtype=np.float32))) for seconds in (1, 4.08, 6, 6.3, 9)] == [
        1,
        1,
        1,
        2,
        2,
    ]
    half = np.concatenate((np.ones(32640, dtype=np.float32), np.zeros(32640, dtype=np.float32)))
    heard = sound_patches(Piece(half, modality="audio"), (16, 8), "values", "masks")
    assert heard["values"].shape == (128, 256) and heard["masks"].reshape(16, 8).any(1).tolist()[10:] == [False] * 6


def test_boxes_go_there_and_back() -> None:
    box = (0.1, 0.2, 0.6, 0.9)
    text = f"{region_text(box, (640, 480))} red sofa {region_text((0, 0, 1, 1), (640, 480))} room"
    found = read_boxes(text, (640, 480))
    assert [words for _, words in found] == ["red sofa", "room"]
    assert all(abs(a - b) < 2e-3 for a, b in zip(found[0][0], box, strict=True))
    assert ground(text, [Pillow.new("RGB", (640, 480))]).text == "red sofa room"
    # halves of a wide picture: its border is an eighth of the square above and below
    assert region_text((0, 0, 0.5, 1), (64, 48)) == "<extra_id_324> <extra_id_200> <extra_id_1074> <extra_id_699>"
    for wrong in ((0.5, 0.1, 0.2, 0.3), (0, 0, 1.2, 1)):
        with pytest.raises(PromptError, match=r"within 0\.\.1 of the picture"):
            region_text(wrong, (4, 4))  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="<extra_id_7> is no location"):
        read_boxes("<extra_id_300> <extra_id_7> <extra_id_300> <extra_id_300> x", (4, 4))
    with pytest.raises(PromptError, match="boxes of a picture; found none"):
        ground(text, [])


@pytest.mark.parametrize("case", PLACES["frames"], ids=lambda case: str(case["size"]))
def test_pictures_lie_in_their_square_as_official_code_has_them(case: dict[str, Any]) -> None:
    square = Square(tuple(case["size"]))
    top, left, back, *_ = case["info"]
    assert (list(reversed(square.scaled)), square.border) == (case["scaled"], (left, top))
    assert float(np.float32(1) / square.scale) == back


def test_places_are_those_of_official_code() -> None:
    """Poses and boxes of recorded answers in pixels, and boxes as they are written."""
    for case in PLACES["poses"]:
        found, size = read_pose(case["text"], tuple(case["size"])), tuple(case["size"])
        assert (found is None) == (case["points"] is None)
        if found is not None:
            assert found.whole != case["invalid"]
            rows = [[*at, 2.0 * joint.seen] for at, joint in zip(found.points(size), found.joints, strict=True)]
            assert np.abs(np.array(rows) - case["points"]).max() < 1e-6
    for case in PLACES["boxes"]:
        boxes = read_boxes(case["text"], tuple(case["size"]))
        assert [words for _, words in boxes] == [each.strip() for each in case["labels"]]
        pixels = np.array([box for box, _ in boxes]) * (case["size"] * 2)
        assert np.abs(pixels - case["boxes"]).max() < 1e-6
    for case in PLACES["regions"]:
        box: Any = tuple(edge / side for edge, side in zip(case["box"], case["size"] * 2, strict=True))
        assert region_text(box, tuple(case["size"])) == case["text"]


@given(
    st.tuples(st.integers(1, 4000), st.integers(1, 4000)).filter(lambda size: max(size) < 200 * min(size)),
    st.dictionaries(st.sampled_from(JOINTS), st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1),
)
def test_poses_go_there_and_back(size: tuple[int, int], seen: dict[str, tuple[float, float]]) -> None:
    pose = Pose(joints=tuple(Joint(name=name, point=point) for name, point in seen.items()))
    found = read_pose(pose_text(pose, size), size)
    assert found is not None and found.whole
    step = 1.01 / 999 * max(size)  # of the square's side, and the picture may be a pixel of the square smaller
    for joint, at in zip(found.joints, found.points(size), strict=True):
        assert joint.seen == (joint.name in seen)
        if joint.seen:
            wanted = [share * side for share, side in zip(seen[joint.name], size, strict=True)]
            assert all(abs(a - b) <= step + 1e-3 for a, b in zip(at, wanted, strict=True))
    assert read_pose(pose_text(found, size), size) is not None


def test_an_answer_with_joints_is_grounded(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = "<extra_id_500> <extra_id_700> nose <extra_id_600> <extra_id_650> left hip"
    box = region_text((0.1, 0.1, 0.9, 0.9), RED.size)
    found = model.ground(f"{box} person {answer}", RED)
    assert [thing.label for thing in found.things] == ["person"] and found.text == "person nose left hip"
    (pose,) = found.poses
    assert [joint.name for joint in pose.joints if joint.seen] == ["nose", "left hip"] and pose.whole
    told = pose.as_dict(RED.size)
    assert told["joints"][0] == {"name": "nose", "point": [32.0, 3.2], "seen": True} and told["picture"] == 0
    monkeypatch.chdir(tmp_path)
    (entry,) = write_boxes(found, Pictures(names=("red.png",), records=(pm.image(RED),)))
    assert entry["poses"] == [told] and Pillow.open("red.boxes.png").getpixel((32, 3)) != (255, 0, 0)
    with pytest.raises(PromptError, match=r"nose at \(2, 0\): expected a point within 0\.\.1"):
        pose_text(Pose(joints=(Joint(name="nose", point=(2, 0)),)), (4, 4))


def test_every_joint_of_a_person_is_guessed(model: Any, tmp_path: Path) -> None:
    """A forced answer is two locations and a name, seventeen times over; a free one may tell nothing."""
    with pytest.raises(ConfigError, match="tokens, the decoder has 64 places"):
        PoseReader(model=model.module, processor=model.processor)(RED)
    long = tiny(tmp_path, decoder_max_text_length=256)
    reader = PoseReader(model=long.module, processor=long.processor)
    tokenizer = long.processor.tokenizer
    names = [[len(each) for each in reader.steps]]
    assert names == [[size for name in JOINTS for size in (1000, 1000, *[1] * len(tokenizer.encode(name)))] + [1]]
    pose = reader(RED, (0.1, 0.1, 0.9, 0.9))
    assert pose is not None and pose.whole and all(joint.seen for joint in pose.joints)
    assert [joint.name for joint in pose.joints] == list(JOINTS)
    free = reader(RED, forced=False)
    assert free is None or len(free.joints) == 17
    with pytest.raises(PromptError, match=r"within 0\.\.1 of the picture"):
        reader(RED, (0.5, 0.1, 0.2, 0.3))


def test_what_does_not_fit_is_refused(model: Any) -> None:
    pictures = [pm.image(RED)] * 10
    for content, words in (
        ((*pictures, "x"), r"takes 9 image items \(36.72 s of sound\), found 10"),
        ((sound(1), sound(1), "x"), "hears one recording; found 2"),
        ((sound(42), "x"), "takes 9 audio items .* found 10"),
        ((" ",), "expected a question or something to look at or hear"),
    ):
        with pytest.raises(PromptError, match=words):
            batch(model, *content)
    with pytest.raises(PromptError, match="one question at a time; found 2"):
        model.processor([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                         {"role": "user", "content": "c"}], generate=True)  # fmt: skip
    first = model.module.tables.span("image")[0]
    with pytest.raises(PromptError, match=r"codes of image must lie in 0\.\.63; found -1"):
        model.module.written("image", torch.full((1, 16), first + 1))
    with pytest.raises(PromptError, match="expected 16 codes, found 3"):
        model.module.written("image", torch.full((1, 3), first + 2))
    with pytest.raises(PromptError, match="tokens of text for a limit of 96"):
        model.module.encoder_places(torch.zeros(1, 100, dtype=torch.int64), None)


@pytest.mark.parametrize(
    ("table", "change", "words"),
    [
        ("t5_config", {"text_pos_emb": "learnable"}, "text_pos_emb: only 'llama_rope' is supported, found 'learnable'"),
        ("t5_config", {"num_heads": 5}, "expected emb_dim = num_heads x head_dim"),
        ("image_history_cfg", {"xattention_index": []}, "expected cross-attention in all 1 layers"),
        ("image_vit_cfg", {"num_layers": 1}, "expected two or more, found 1"),
        ("image_vit_cfg", {"num_pos": 7}, "expected positions of a square, found 6"),
    ],
)
def test_configs_that_are_refused(table: str, change: dict[str, Any], words: str) -> None:
    config = evidence.small()
    with pytest.raises(ConfigError, match=words):
        SYSTEM.formats[0].model_spec({**config, table: {**config[table], **change}})
