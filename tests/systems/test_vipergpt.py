"""ViperGPT: programs out of outputs, what they give as words and files, what is refused, numbers in words."""

import numpy as np
import pytest
from PIL import Image as Pillow

import polymodal as pm
from polymodal.agents.tools import Tool, ToolError
from polymodal.check.evidence.vipergpt import stubs
from polymodal.data.media import Image
from polymodal.errors import PromptError
from polymodal.systems.vipergpt.agent import PROMPT, program_of
from polymodal.systems.vipergpt.numbers import coerce_to_numeric, word_to_num
from polymodal.systems.vipergpt.patches import ImagePatch, VideoSegment, best_image_match

PIXELS = np.arange(120 * 200 * 3, dtype=np.uint32).astype(np.uint8).reshape(120, 200, 3)


def ask(body: str, question: str = "What?", tools=None):
    program = "def execute_command(image):\n" + "\n".join(f"    {line}" for line in body.splitlines())
    both = {"image": "image", "text": "text"}
    answer = Tool(name="vqa", task="visual-question-answering", inputs=both, output="text",
                  run=lambda image, text: f"{image.picture.width} wide")  # fmt: skip
    agent = pm.agent("vipergpt", planner=[program, "an answer of the language model"], tools=tools or [answer])
    return agent, agent.ask(pm.image(PIXELS), question)


def test_a_program_is_found_in_an_output() -> None:
    whole = "def execute_command(image) -> str:\n    return 'a'"
    assert program_of(f"Sure:\n```python\n{whole}\n```\nDone.") == f"{whole}\n"
    assert program_of(f"Here it is.\n{whole}") == whole
    assert program_of("\n    return 'a'") == "def execute_command(image):\n    return 'a'"
    helper = f"import math\ndef f():\n    return 1\n{whole}"
    assert program_of(helper) == helper and program_of("    return 1", argument="video").startswith(
        "def execute_command(video)"
    )


def test_the_prompt_has_the_api_the_query_and_a_file_of_one_s_own_takes_its_place(tmp_path) -> None:
    agent, _ = ask("return 'x'", "How many?")
    system, user = agent.planner.asked[0]
    assert system["content"] == "Only answer with a function starting def execute_command."
    assert user["content"].endswith("Query: How many?\ndef execute_command(image):")
    assert all(
        f"def {name}(" in PROMPT for name in ("find", "simple_query", "compute_depth", "best_image_match", "distance")
    )
    own = tmp_path / "api.prompt"
    own.write_text("API\nQuery: INSERT_QUERY_HERE\nInput: INSERT_TYPE_HERE\n")
    agent = pm.agent("vipergpt", planner=["    return 1"], tools=(), prompt=own)
    assert agent.ask(pm.image(PIXELS), "Q?").text == "1"
    assert agent.planner.asked[0][1]["content"] == "API\nQuery: Q?\nInput: image"


def test_what_a_program_gives_in_words_and_files() -> None:
    for body, words in (("return True", "yes"), ("return None", ""), ("return [1, 'a', False]", "1, a, no"),
                        ("return {'a': 2.5}", "a: 2.5"), ("return ImagePatch(image).simple_query('q')", "200 wide"),
                        ("return llm_query('Why?')", "an answer of the language model"),
                        ("return []", "nothing")):  # fmt: skip
        assert ask(body)[1].text == words
    _, reply = ask("return [ImagePatch(image, 10, 20, 50, 100)]")
    assert reply.media["image"][0].size == (40, 80) and reply.text.endswith(".png")
    assert np.array_equal(np.asarray(reply.media["image"][0]), PIXELS[20:100, 10:50]), "y grows upward"


def test_a_program_that_fails_is_named_and_the_steps_before_it_are_told() -> None:
    for body, why in (("return open('x')", "no name 'open'"), ("import os", "import of 'os' is not allowed"),
                      ("return ImagePatch(image).__class__", "begins with an underscore"),
                      ("return ImagePatch(image).compute_depth()", "compute_depth needs a tool for depth-estimation"),
                      ("return ImagePatch(image, 0, 0, 900, 20)", "it has no area in a picture of 200 x 120"),
                      ("return ImagePatch(image).find(3)", "expected a text, found int"),
                      ("while True:\n    pass", "more than"),
                      ("return ImagePatch(image).best_text_match([])", "at least one option"),
                      ("return ImagePatch(image).models", "has no 'models'"),
                      ("return image.image", "has no 'image'")):  # fmt: skip
        _, reply = ask(body)
        assert why in reply.text and reply.steps[-1].error and reply.finish_reason == "unreadable", reply.text
    _, reply = ask("y = ImagePatch(image).simple_query('q')\nreturn y + 1")
    assert [step.tool for step in reply.steps] == [
        "simple_query",
        "execute_command",
    ] and "simple_query(q): 200 wide" in reply.text


def test_one_picture_or_video_is_asked_about() -> None:
    agent = pm.agent("vipergpt", planner=["    return 1"], tools=())
    with pytest.raises(ToolError, match="about one picture or one video; found 0 files"):
        agent.ask("What?")
    with pytest.raises(PromptError, match="takes text, image, video; found audio"):
        agent.ask(pm.audio((np.zeros(9, np.float32), 8000)), "What?")


def test_patches_know_their_place() -> None:
    models = stubs()
    patch = ImagePatch(models, Image(Pillow.fromarray(PIXELS)))
    inner = patch.crop(50, 20, 150, 90).crop(30, 30, 60, 70)
    assert (inner.left, inner.lower, inner.right, inner.upper) == (60, 30, 110, 90) and inner.original is patch
    assert repr(inner) == "ImagePatch(60, 30, 110, 90)" and best_image_match([], ["a"]) is None
    video = VideoSegment(models, [patch.picture] * 5)
    assert repr(video.trim(1, 3)) == "VideoSegment(1, 3)" and video.frame_from_index(99).width == 200
    assert len(video.frame_iterator()) == 5 and "Answer with one of: a, b" in video.select_answer(
        {"n": 1}, "q", ["a", "b"]
    )


def test_numbers_in_words() -> None:
    assert (
        word_to_num("Twenty-One") == 21
        and word_to_num("three point one") == 3.1
        and coerce_to_numeric("none") == "none"
    )
    for text in ("nothing", "thousand thousand", "two thousand three million"):
        with pytest.raises(ValueError, match=r"number|order"):
            word_to_num(text)
