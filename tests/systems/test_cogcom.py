"""CogCoM: the chain of manipulations, turns in one row, boxes, and what is refused by name."""

import io
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import polymodal as pm
from polymodal.check.fixture import official_weights, read
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.template import written as as_text
from polymodal.data.transforms import CLIP_MEAN, CLIP_STD
from polymodal.errors import ConfigError, PromptError, WeightsError
from polymodal.fusion.routing import ExpertRoutes
from polymodal.systems.cogcom import PUBLISHED, SYSTEM
from polymodal.systems.cogcom import manipulations as chain
from polymodal.systems.cogcom.checkpoint import TurnRoutes, Turns, followed, infer, parse_config, written_out
from tiny_folders import tiny

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
DOT = np.zeros((40, 40, 3), np.uint8)
CROP = "I look closer: CROP_AND_ZOOMIN([[100,250,600,750]], 2)."


def said(role, *content):
    return Message(role=role, parts=tuple(Text(part) if isinstance(part, str) else part for part in content))


def asked(*content):
    return [said("user", *content)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny("cogcom", tmp_path_factory.mktemp("cogcom"))


def answering(model, monkeypatch, answers):
    """The model writes these answers, one for each turn; returns the conversations it was given."""
    given, left = [], list(answers)

    def answer(stream, messages):
        given.append(messages)
        text = left.pop(0)
        yield text
        return pm.Reply(text=text, model=model.name, tokens={"text": 3, "generated": 2}, seconds={"generate": 0.5})

    monkeypatch.setattr("polymodal.api.asking.Stream._answer", answer)
    return given


def test_prompts_byte_for_byte():
    talk = [said("user", "Where <s>is it?<EOI>", pm.image(DOT)), said("assistant", "There."), said("user", "Why?")]
    shown = written_out(talk)
    assert as_text(Turns().render(shown, ask=True)) == "<s><image>Where is it?There.<s><image>Why?"
    learned = as_text(Turns().render((*shown, said("assistant", "So.")), ask=False))
    assert learned == "<s><image>Where is it?There.</s><s><image>Why?So.</s>"
    assert as_text(Turns().render(written_out(asked("Hi")), ask=True)) == "<s>Hi"
    assert chain.LAUNCH.format(QUESTION="Why?") == (
        "Given a question, please solve the question step-by-step with a chain of manipulations. Why?"
    )
    assert chain.NEXT == "Based on this new image and the reasoning history:"


def test_pictures_are_squeezed_to_the_square(model):
    cat = Pillow.open(CAT).convert("RGB")
    batch = model.processor(asked("Hi", pm.image(CAT)), generate=True)
    pixels = torch.from_numpy(np.array(cat.resize((56, 56), Pillow.Resampling.BICUBIC))).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(each)[:, None, None] for each in (CLIP_MEAN, CLIP_STD))
    assert (batch["images"][0] - (pixels - mean) / std).abs().max() <= 1e-5
    assert batch["token_type_ids"][0, :20].tolist() == [0, *[1] * 18, 0]


def test_positions_start_anew_in_every_turn_and_patches_share_one(model):
    talk = [said("user", pm.image(CAT), "ab"), said("assistant", "c"), said("user", "d")]
    batch = model.processor(talk, generate=True)
    one = [0, 1, *[2] * 16, 3]
    assert batch["position_ids"][0].tolist() == [*one, 4, 5, 6, *one, 4]
    alone = model.processor(asked("ab"), generate=True)
    assert alone["position_ids"][0].tolist() == [0, 1, 2]
    ids = torch.tensor([[1, 7, 8, 1, 9]])
    assert TurnRoutes()({"input_ids": ids})["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    padded = {"input_ids": torch.tensor([[0, 0, 1, 7]]), "attention_mask": torch.tensor([[0, 0, 1, 1]])}
    assert TurnRoutes()(padded)["position_ids"][0, 2:].tolist() == [0, 1]
    assert TurnRoutes()({"input_ids": ids, "image_mask": ids == 0}) == {} != ExpertRoutes()({"input_ids": ids})


def test_turns_equal_the_official_positions():
    _, tensors = read("cogcom")
    mask = tensors["in.attention_mask"]
    given = {name: tensors[f"in.{name}"] for name in ("input_ids", "token_type_ids", "attention_mask")}
    found = TurnRoutes()(given)["position_ids"]
    assert torch.equal(found[mask.bool()], tensors["out.position_ids"][mask.bool()])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (CROP, [("CROP_AND_ZOOMIN", (100, 250, 600, 750))]),
        ("GROUNDING(the dog)->[[1,2,3,4]]", [("GROUNDING", None)]),
        ("OCR(region [[086, 000, 999, 010]]) then CALCULATE(3+4)", [("OCR", (86, 0, 999, 10)), ("CALCULATE", None)]),
        ("COUNTING() LINE([1,2,3,4])", [("COUNTING", None), ("LINE", (1, 2, 3, 4))]),
        ("ROTATE([[1,2,3]])", [("ROTATE", None)]),
        ("two CROP_AND_ZOOMIN([[1,2,3,4;5,6,7,8]])", [("CROP_AND_ZOOMIN", None)]),
        ("no (call) here", []),
    ],
)
def test_manipulations_are_read_and_written(text, found):
    calls = chain.read(text)
    assert [(call.name, call.box) for call in calls] == found
    assert all(str(call) in text for call in calls)


def test_a_region_is_cut_out_and_enlarged_as_published():
    cat = Pillow.open(CAT).convert("RGB")
    new = followed(asked(pm.image(CAT), "What?"), CROP)
    assert new is not None and new.text == chain.NEXT
    box = [edge / 1000 * side for edge, side in zip((100, 250, 600, 750), (*cat.size, *cat.size), strict=True)]
    want = cat.crop(box)
    want = want.resize((want.width * 2, want.height * 2), Pillow.Resampling.BICUBIC)
    assert new.media[0].picture.tobytes() == want.tobytes()
    padded = followed(asked(pm.image(CAT), "What?"), "CROP_AND_ZOOMIN([[086,040,400,760]])")
    assert padded is not None and padded.media[0].picture.size != cat.size, "leading zeros are read"


@pytest.mark.parametrize(
    "box", ["[[5,5,5,900]]", "[[600,1,500,2]]", "[[0,0,99999,99999]]", f"[[0,0,9,{'9' * 900}]]", "the left part", ""]
)
def test_what_cannot_be_cut_out_is_looked_at_again_as_it_is(box):
    new = followed(asked(pm.image(CAT), "What?"), f"CROP_AND_ZOOMIN({box})")
    assert new is not None and new.media[0].picture.size == Pillow.open(CAT).size


def test_enlarging_ends_where_a_picture_may_have_no_more_pixels():
    large = Pillow.new("RGB", (6000, 3000))
    assert chain.cut(large, (0, 0, 6000, 3000)).size == (6000, 3000)


def test_when_a_chain_ends():
    question = asked(pm.image(DOT), "What?")
    assert followed(question, "A cat.") is None
    assert followed(question, f"{CROP} So CALCULATE(1+1) is 2.") is None, "the last manipulation counts"
    assert followed(asked("What?"), CROP) is None, "there is no picture"
    listed = asked(pm.image(DOT), "Use CROP_AND_ZOOMIN(a region)->new_image or CALCULATE(a target). What?")
    assert followed(listed, "A cat.") is None and followed(listed, CROP) is not None
    talk = question
    for turn in range(chain.MOST):
        follow = followed(talk, CROP)
        assert follow is not None, turn
        talk = [*talk, said("assistant", CROP), follow]
    assert followed(talk, CROP) is None
    again = [*talk, said("assistant", "Done."), said("user", pm.image(DOT), "And now?")]
    assert followed(again, CROP) is not None, "a new question has its own turns"


def test_chat_answers_the_turns_it_asks_for(model, monkeypatch):
    given = answering(model, monkeypatch, [CROP, "GROUNDING(a tail) A cat."])
    stream = model.stream(pm.image(CAT), "What?")
    pieces = list(stream)
    reply = stream.reply
    assert reply.text == "".join(pieces) == f"{CROP} {chain.NEXT} GROUNDING(a tail) A cat."
    assert reply.tokens["generated"] == 4 and reply.seconds["generate"] == 1.0
    assert [picture.size for picture in reply.media["image"]] == [given[1][2].media[0].picture.size]
    assert [message.role for message in given[1]] == ["user", "assistant", "user"]
    answering(model, monkeypatch, [CROP, "A dog.", "A cat."])
    assert [each.text for each in model.chat_batch([[pm.image(CAT), "a"], [pm.image(CAT), "b"]])] == [
        f"{CROP} {chain.NEXT} A dog.", "A cat."]  # fmt: skip


def test_an_answer_of_several_turns_is_taken_apart_for_the_next_question():
    talk = [
        said("user", pm.image(CAT), "What?"),
        said("assistant", f"{CROP} {chain.NEXT} A cat."),
        said("user", "Why?"),
    ]
    roles = [message.role for message in written_out(talk)]
    assert roles == ["user", "assistant"] * 2 + ["user"]
    first, _, second, answer, last = written_out(talk)
    assert second.text == chain.NEXT and answer.text == "A cat."
    assert second.media[0].picture.size != first.media[0].picture.size == last.media[0].picture.size
    kept = written_out([*talk[:1], said("assistant", f"Words. {chain.NEXT} more"), said("user", "b")])
    assert [message.text for message in kept] == ["What?", f"Words. {chain.NEXT} more", "b"]


def test_boxes_of_a_region_lie_in_the_whole_picture():
    square = pm.image(np.zeros((100, 200, 3), np.uint8))
    answer = f"The cat [[100,200,300,400]]. {CROP} {chain.NEXT} Its tail [[500,000,999,500]]"
    found = chain.grounded(answer, [square])
    assert found.text == f"The cat. {CROP} {chain.NEXT} Its tail"
    assert [thing.label for thing in found.things] == ["The cat", "CROP_AND_ZOOMIN", "Its tail"]
    assert found.things[0].box == (0.1, 0.2, 0.3, 0.4)
    assert found.things[2].box == pytest.approx((0.35, 0.25, 0.1 + 0.5 * 0.999, 0.5))
    assert chain.grounded(answer, []).things == ()


def test_long_texts_are_read_in_little_time():
    start = time.perf_counter()
    assert chain.read("a" * 1_000_000) == chain.read("a(" * 100_000) == ()
    talk = [said("user", pm.image(DOT), "a"), said("assistant", f"{CROP} {chain.NEXT}" * 20_000), said("user", "b")]
    assert len(written_out(talk)) == 2 * chain.MOST + 3
    assert time.perf_counter() - start < 20


def test_boxes_are_written_as_training_wrote_them():
    assert chain.written([(10, 20, 200, 100)], (200, 100)) == "[[050,200,995,990]]"
    assert chain.written([(0, 0, 1, 1), (5, 5, 9, 9)], (10, 10)) == "[[000,000,100,100;500,500,900,900]]"
    call = chain.Manipulation(name="LINE", argument=chain.written([(10, 20, 200, 100)], (200, 100)))
    assert chain.read(str(call)) == (call,) and call.box == (50, 200, 995, 990)
    for wrong in ([(0, 0, 11, 5)], [(5, 5, 1, 9)], [(1, 2)], []):
        with pytest.raises(PromptError, match="within 10 x 10"):
            chain.written(wrong, (10, 10))


def test_what_is_refused_is_named():
    with pytest.raises(PromptError, match="cogcom takes one picture a turn; found 2"):
        written_out(asked(pm.image(DOT), pm.image(DOT)))
    with pytest.raises(PromptError, match="found audio"):
        written_out(asked(pm.audio((np.zeros(9, np.float32), 16000))))
    with pytest.raises(PromptError, match="user and assistant in turn"):
        written_out([said("assistant", "a")])
    tower = PUBLISHED["eva_args"]
    for changes, words in (
        ({"layernorm_order": "post"}, "layernorm_order: expected 'pre', found 'post'"),
        ({"model_parallel_size": 2}, "model_parallel_size"),
        ({"use_bias": True}, "use_bias"),
        ({"image_length": 256}, "image_length: expected the 1225 patches"),
        ({"eva_args": {**tower, "image_size": [490, 224]}}, "eva_args.image_size: expected a square"),
        ({"eva_args": {**tower, "use_final_layernorm": True}}, "eva_args.use_final_layernorm"),
    ):
        with pytest.raises(ConfigError, match=words):
            parse_config({**PUBLISHED, **changes})


def test_a_published_file_says_its_size_by_its_tensors():
    shapes = SYSTEM.formats[0].model_spec(PUBLISHED)
    names = {name: tuple(shape) for name, shape in json.loads(published_list()).items()}
    config = infer(names)
    assert config == {key: value for key, value in PUBLISHED.items() if key in config} | {
        "eva_args": config["eva_args"]
    }
    tower = PUBLISHED["eva_args"]
    assert config["eva_args"] == {key: tower[key] for key in config["eva_args"]}
    assert infer({"transformer.word_embeddings.weight": (3, 4)}) is None
    assert shapes.ends == ((2,), 0)


def published_list():
    import zlib

    return zlib.decompress(read("cogcom_sizes")[1]["base"].numpy().tobytes()).decode()


def test_a_damaged_file_is_refused_by_name(tmp_path):
    about, _ = read("cogcom_small")
    (tmp_path / "config.json").write_text(about["config"])
    weights = official_weights(about)
    weights.pop("mixins.eva.boi")
    buffer = io.BytesIO()
    torch.save({"module": weights}, buffer)
    (tmp_path / about["file"]).write_bytes(buffer.getvalue())
    with pytest.raises(WeightsError, match=r"connectors\.image\.begin"):
        pm.load(tmp_path)
