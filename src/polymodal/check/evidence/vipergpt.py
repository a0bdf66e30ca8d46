"""Evidence for ViperGPT: the same programs ran over the official classes with stub models, of which only numbers are
kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np

import polymodal as pm
from polymodal.agents.interpreter.evaluate import run
from polymodal.agents.interpreter.meter import ProgramLimits
from polymodal.agents.tools import Box, Tool, Toolbox
from polymodal.check.agents import Pair, case, mini, picture, recorded, shown
from polymodal.check.record import Evidence, HeadlineResult
from polymodal.data.media import Image
from polymodal.systems.vipergpt.agent import ENTRY, api
from polymodal.systems.vipergpt.patches import Models, Picture, VideoSegment

RECORD = recorded("vipergpt")
WIDTH, HEIGHT = RECORD["size"]
PROGRAM = """def execute_command(image) -> str:
    image_patch = ImagePatch(image)
    cats = image_patch.find("cat")
    if len(cats) == 0:
        return "no cat"
    cats.sort(key=lambda cat: cat.width, reverse=True)
    colour = cats[0].best_text_match(["a grey cat", "a red car"])
    return f"{len(cats)} cat, {colour}, {cats[0].simple_query('What animal is this?')}"
"""


def stubs() -> Models:
    """The stub models of the recording: boxes, a depth that is the row, scores and answers made of sizes."""

    def boxes(image: Image, text: str) -> tuple[Box, ...]:
        found = RECORD["boxes"].get(text, []) if image.picture.width == WIDTH else []
        return tuple(Box(label=text, left=left, top=HEIGHT - upper, right=right, bottom=HEIGHT - lower)
                     for left, lower, right, upper in found)  # fmt: skip

    def answer(image: Image, text: str) -> str:
        return "yes" if "Is this a" in text else f"{image.picture.width}x{image.picture.height} {text}"

    def depth(image: Image) -> Image:
        rows = np.arange(image.picture.height, dtype=np.uint8)[:, None].repeat(image.picture.width, 1)
        return Image(rows)

    def score(image: Image, text: str) -> float:
        return (image.picture.width * 7 + len(text) * 13) % 100 / 100

    both = {"image": "image", "text": "text"}
    tools = (
        Tool(name="find", task="zero-shot-object-detection", inputs=both, output="boxes", run=boxes),
        Tool(name="ask", task="visual-question-answering", inputs=both, output="text", run=answer),
        Tool(name="depth", task="depth-estimation", inputs={"image": "image"}, output="image", run=depth),
        Tool(name="match", task="image-text-matching", inputs=both, output="number", run=score),
    )
    return Models(Toolbox(tools), lambda question: question, lambda *told: None)


def programs() -> Iterator[Pair]:
    """What each program gives in the restricted interpreter, and gave over the official classes."""
    models = stubs()
    blank = Image(np.zeros((HEIGHT, WIDTH, 3), dtype=np.uint8))
    for row in RECORD["programs"]:
        found = run(row["program"], ENTRY, (Picture(blank),), api(models), ProgramLimits())
        yield json.loads(json.dumps(found)), row["value"]


def trims() -> Iterator[Pair]:
    """Start, end and length of a video's parts, and of parts of these."""
    frames = [Image(np.zeros((12, 20, 3), dtype=np.uint8))] * 20
    for start, end, *wanted in RECORD["trims"]:
        part = VideoSegment(stubs(), frames).trim(start, end)
        inner = part.trim(1, 3)
        yield [part.start, part.end, part.num_frames, inner.start, inner.end, inner.num_frames], wanted


def headline() -> HeadlineResult:
    """A program over a photograph, with mini's detector, classes and answers behind it."""
    reply = pm.agent("vipergpt", planner=[PROGRAM], tools=[mini()]).ask(picture(), "How many cats, and of what colour?")
    wanted: tuple[Any, ...] = (reply.text.startswith("1 cat, a grey cat, "), "cat" in reply.text[18:].lower())
    return shown(reply, map(bool, wanted), "a scripted program, mini's tools, a photograph")


EVIDENCE = Evidence(
    oracle=f"official code: {RECORD['source']}",
    cases=(),
    recorded=(case("programs over patches", programs), case("parts of videos", trims)),
    headline=headline,
    exceptions=(
        "programs run in an interpreter of ours: classes, try, with, imports other than math and typing, and "
        "names with an "
        "underscore in front are refused, which the official code's exec allows",
        "the prompt is in our words; the official one, of a licence that does not allow copies here, is read "
        "from a file of "
        "yours with its INSERT_QUERY_HERE",
        "GLIP, X-VLM, BLIP-2 and MiDaS are whatever tools are given; verify_property asks a question where "
        "no tool scores "
        "pictures against words, and compares with no list of other attributes",
        "a video is at most 30 frames, evenly taken, as the official data set does; the scores of the paper "
        "need its models "
        "and its planner and were not measured",
    ),
)
