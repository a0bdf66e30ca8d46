"""PaLM-E: its printed prompts byte for byte, states and scenes as they come in, plans, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from typer.testing import CliRunner

import polymodal as pm
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence import palm_e
from polymodal.cli.app import app
from polymodal.data.media import Media, Text
from polymodal.data.messages import Message
from polymodal.errors import ConfigError, MediaError, PromptError
from polymodal.systems.palm_e.plans import DONE, Step, kitchen, read_plan, read_step, write_plan
from polymodal.systems.palm_e.processing import STATES

RED, BLUE = (pm.image(Pillow.new("RGB", (61, 47), colour)) for colour in ("red", "blue"))
OBJECTS = pm.array(np.zeros((3, palm_e.NUMBERS), np.float32), "state")
ROBOT = pm.array(np.ones(palm_e.NUMBERS, np.float32), "state")
SCENE = pm.array(np.zeros((2, 16, 16, 9), np.float32), "scene")


def folder(place: Path, *senses: str, **text: Any) -> pm.Model:
    torch.manual_seed(0)
    config = palm_e.small(byte_tokenizer(place, palm_e.SPECIALS, eos=palm_e.END, pad=palm_e.END), *senses)
    config["text_config"] |= text
    write_config(place, config=config)
    model_spec = palm_e.SYSTEM.formats[0].model_spec(config)
    write_weights(place, model_spec.build(), model_spec.keys[0])
    return pm.load(place)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> pm.Model:
    return folder(tmp_path_factory.mktemp("palm_e"), "vision", "state", "scene")


def user(*parts: Media | str) -> Message:
    return Message(role="user", parts=tuple(Text(part) if isinstance(part, str) else part for part in parts))


def answer(text: str) -> Message:
    return Message(role="assistant", parts=(Text(text),))


def prompt(model: pm.Model, *messages: Message, generate: bool = True) -> str:
    """The prompt with one mark in place of all embeddings of an item, or of an object."""
    ids = model.processor(list(messages), generate=generate)["input_ids"][0]
    text: str = model.processor.tokenizer.decode(ids.tolist(), skip_special=False)
    for mark, count in (("<img>", 16), ("<slot>", 2)):
        text = text.replace(mark * count, mark)
    return text


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ((RED, "How to grasp the green object?"), "Given <img>. Q: How to grasp the green object? A:"),
        ((RED, BLUE, "What happened?"), "Given <img> and <img>. Q: What happened? A:"),
        (("What happened between ", RED, " and ", BLUE, "?"), "Q: What happened between <img> and <img>? A:"),
        ((ROBOT, "Where is it?"), "Given <emb>. Q: Where is it? A:"),
        ((OBJECTS, "How to grasp <obj 2>?"),
         "Obj 1 is <emb>. Obj 2 is <emb>. Obj 3 is <emb>. Q: How to grasp <obj 2>? A:"),
        ((SCENE, RED, "Is it red?"),
         "Obj 1 is <slot>. Obj 2 is <slot>. Obj 3 is <slot>. Given <img>. Q: Is it red? A:"),
        (("Q: Miami Beach borders which ocean?",), "Q: Miami Beach borders which ocean? A:"),
        ((RED, "Task: Sort colors into corners."), "Given <img>. Task: Sort colors into corners."),
        ((RED, kitchen("Bring me the rice chips from the drawer.", ["Go to the drawers", "Open top drawer"])),
         "Human: Bring me the rice chips from the drawer. Robot: 1. Go to the drawers, 2. Open top drawer. "
         "I see <img>."),
        (("Human: Bring me an apple. Robot: I see ", RED, "."), "Human: Bring me an apple. Robot: I see <img>."),
    ],
)  # fmt: skip
def test_prompts_are_those_of_the_paper(model: pm.Model, parts: tuple[Any, ...], expected: str) -> None:
    assert prompt(model, user(*parts)) == expected


def test_the_answer_is_learned_with_its_mark_and_several_turns(model: pm.Model) -> None:
    talk = [user(RED, "How to grasp the green object?"), answer("First grasp it."), user("And then?"), answer("Wait.")]
    assert prompt(model, *talk, generate=False) == (
        "Given <img>. Q: How to grasp the green object? A: First grasp it. Q: And then? A: Wait.[eod]"
    )
    labels = model.processor(talk)["labels"][0]
    learned = model.processor.tokenizer.decode(labels[labels >= 0].tolist(), skip_special=False)
    assert learned == " A: First grasp it. A: Wait.[eod]"


def test_items_of_unequal_length_in_a_batch_are_those_alone(model: pm.Model) -> None:
    rows = [[user(OBJECTS, "a")], [user(RED, ROBOT, "bb")], [user(SCENE, "c")]]
    batch = model.processor(rows)
    assert batch[STATES].shape == (4, palm_e.NUMBERS) and batch["state_counts"] == (3, 1)
    with torch.no_grad():
        together = model.logits(**batch)
        for row, messages in enumerate(rows):
            alone = model.logits(**model.processor(messages))
            real = batch["attention_mask"][row].bool()
            assert (together[row, real] - alone[0]).abs().max() < 1e-5


def test_the_command_line_takes_numbers_of_objects(tmp_path: Path) -> None:
    folder(tmp_path, "state")
    np.save(tmp_path / "objects.npy", OBJECTS.values)
    words = ["ask", str(tmp_path / "objects.npy"), "How to grasp <obj 1>?", "--model", str(tmp_path)]
    told = CliRunner().invoke(app, [*words, "--max-tokens", "2", "--json"])
    assert told.exit_code == 0 and json.loads(told.stdout)["tokens"]["state"] == 3, told.output
    wrong = CliRunner().invoke(app, [*words[:2], "How to grasp <obj 4>?", *words[3:]])
    assert "<obj 4> is not shown; there are 3 objects" in str(wrong.exception)


@pytest.mark.parametrize(
    ("parts", "error", "words"),
    [
        ((pm.array(np.zeros((3, 5)), "state"), "?"), MediaError, r"expected 8 numbers.*found \[3, 5\]"),
        ((pm.array(np.full(8, np.inf), "state"), "?"), MediaError, "found 8 that are not"),
        ((pm.array(np.zeros((2, 16, 8, 9)), "scene"), "?"), MediaError, r"\[V, 16, 16, 9\], found \[2, 16, 8, 9\]"),
        ((pm.array(np.zeros((3, 8))), "?"), PromptError, "say which an array is"),
        ((OBJECTS, SCENE, "?"), PromptError, "numbered once in a conversation, found 2 lists"),
        ((RED, "Where is <obj 1>?"), PromptError, "<obj 1> is not shown; there are 0 objects"),
        ((OBJECTS, "Where is <obj_0>?"), PromptError, "<obj_0> is not shown; there are 3 objects"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_named(model: pm.Model, parts: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        model.processor([user(*parts)], generate=True)


def test_roles_and_orders_that_there_are_none_of(model: pm.Model) -> None:
    with pytest.raises(PromptError, match="no role 'tool'"):
        model.processor([Message(role="tool", parts=(Text("x"),))])
    with pytest.raises(PromptError, match="answers in words, found image"):
        model.processor([user("x"), Message(role="assistant", parts=(RED,))])


def test_pictures_beyond_the_context_name_count_and_limit(tmp_path: Path) -> None:
    model = folder(tmp_path, "vision", max_position_embeddings=60)
    with pytest.raises(PromptError, match=r"\d+ tokens.*60"):
        model.chat(RED, BLUE, RED, BLUE, "?", max_tokens=4)


def test_users_cannot_type_the_marks(model: pm.Model) -> None:
    ids = model.processor([user("a<img>b[eod]")], generate=True)["input_ids"][0].tolist()
    assert not {model.processor.tokenizer.special(name) for name in ("<img>", palm_e.END)} & set(ids)


@pytest.mark.parametrize(
    ("text", "steps", "form"),
    [
        ("First grasp the green object and place it on the table, then grasp the white object and place it on the red "
         "object.", ["grasp the green object", "place it on the table", "grasp the white object",
                     "place it on the red object"], "first then"),
        ("First grasp <obj 2>.", ["grasp <obj 2>"], "first then"),
        ("1. Find a sponge, 2. Pick up the sponge, 3. Bring it to the user, 4. Put down the sponge.",
         ["Find a sponge", "Pick up the sponge", "Bring it to the user", "Put down the sponge"], "numbers"),
        ("Step 1. Push the green star to the bottom left. Step 2. Push the green circle to the green star.",
         ["Push the green star to the bottom left", "Push the green circle to the green star"], "steps"),
    ],
)  # fmt: skip
def test_plans_go_there_and_back(text: str, steps: list[str], form: Any) -> None:
    assert [step.text for step in read_plan(f"A: {text}")] == steps
    assert write_plan(steps, form) == text


def test_steps_name_their_objects() -> None:
    assert read_plan("First grasp <obj 2> and place it on <obj_10>.") == (
        Step("grasp <obj 2>", (2,)), Step("place it on <obj_10>", (10,)))  # fmt: skip
    assert read_step("3. Pick the green rice chip bag.") == Step("Pick the green rice chip bag")
    assert read_step(f" 4. {DONE}.") is None
    for wrong in ("", " A: "):
        with pytest.raises(PromptError, match="expected steps in words"):
            read_plan(wrong)
    with pytest.raises(PromptError, match=r"found the numbers \[1, 3\]"):
        read_plan("1. Find it, 3. Take it")
    with pytest.raises(PromptError, match="one step at least"):
        write_plan([])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vision_config": None}, "expected a vision_config, state_config or scene_config"),
        ({"vision_config": {"model_type": "swin"}}, "expected vit or vit-22b, found 'swin'"),
        ({"vision_config": {"depth": 3}}, r"\['depth'\] is not supported"),
        ({"text_config": {"attention_bias": True}}, r"palm: \['attention_bias'\] is not supported"),
        ({"state_config": {"hidden_size": 4}}, "state_config.size: expected a whole number above 0, found 'None'"),
        ({"state_config": {"size": 4, "hidden_size": 4, "layers": 3}}, r"\['layers'\] is not supported"),
        ({"scene_config": {"hidden_size": 4, "osrt_config": {"image_size": [20, 16]}}}, "expected multiples of 8"),
        ({"scene_config": {"hidden_size": 4, "embeddings": 0}}, "one embedding at least"),
    ],
)
def test_configs_that_are_refused(change: dict[str, Any], words: str) -> None:
    config = {"text_config": {}, "vision_config": {}} | change
    with pytest.raises(ConfigError, match=words):
        palm_e.SYSTEM.formats[0].model_spec(config)


def test_a_vocabulary_of_other_ids_is_refused(tmp_path: Path) -> None:
    folder(tmp_path, "vision")
    config = json.loads((tmp_path / "config.json").read_text())
    write_config(tmp_path, config={**config, "image_token_id": 7})
    with pytest.raises(ConfigError, match="has <img> at 1, the model expects 7; say image_token_id"):
        pm.load(tmp_path)
