"""Evidence for MM-REACT: the official parsers and experts' lines were run, on outputs in its own prompts and on
others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import polymodal as pm
from polymodal.agents.tools import Box
from polymodal.check.agents import Pair, case, mini, picture, recorded, shown
from polymodal.check.record import Evidence, HeadlineResult
from polymodal.systems.mm_react.experts import told
from polymodal.systems.mm_react.watchword import find_file, read, written_on

RECORD = recorded("mm_react")


def outputs() -> Iterator[Pair]:
    """(expert, input), several as the official MultiAction, an answer, or None for one to be written on."""
    for row in RECORD["outputs"]:
        found = read(row["output"], row["tries"])
        given: Any = None if found is None else list(found[0])
        if found is not None and len(found) > 1:
            given = ["MultiAction", json.dumps([list(each) for each in found])]
        yield given, row["read"]
    yield from ((written_on(row["output"]), row["fixed"]) for row in RECORD["fixed"])


def files() -> Iterator[Pair]:
    return ((list(find_file(text)), wanted) for text, *wanted in RECORD["files"])


def experts() -> Iterator[Pair]:
    """Descriptions, places, tags and words as lines; what is found nowhere is told so by the tool that was asked."""
    for row in RECORD["experts"]:
        if row.get("task"):
            continue
        boxes = [
            Box(label=name, left=left, top=top, right=right, bottom=bottom)
            for name, (left, top, right, bottom) in row.get("objects", ())
        ]
        size = row.get("size", {"width": 1, "height": 1})
        given = (row["img_url"], row.get("description", ""), boxes, row.get("words", ()))
        yield told(*given, (size["width"], size["height"])), row["text"]


def planner(messages: Any, stop: Any = ()) -> str:
    """Asks what is in the picture, asks for a celebrity that nobody here knows, sums up."""
    prompt = messages[0]["content"]
    turn = prompt.split("<|im_start|>Human\n")[-1]
    name = turn.split("\n")[0].split()[-1]
    if "Image description is" not in turn:
        return f"1. There is an image in the input\nAssistant, what objects do you see in this image? {name}"
    if "there is no" not in turn:
        return f"1. A cat\nAssistant, do facial recognition to this image {name}"
    return "1. A cat is seen\nTo summerize, the picture shows a cat"


def headline() -> HeadlineResult:
    reply = pm.agent("mm-react", planner=planner, tools=[mini()]).ask(picture(), "What is in this picture?")
    first, second = reply.steps
    wanted = ("Image description is:" in first.result, "\ncat " in first.result, "there is no" in second.error,
              reply.text.endswith("To summerize, the picture shows a cat"))  # fmt: skip
    return shown(reply, wanted, "scripted thoughts, mini's tools, a photograph")


EVIDENCE = Evidence(
    oracle=f"official code: {RECORD['source']}",
    cases=(),
    recorded=(
        case("outputs of a planner", outputs),
        case("names of files in requests", files),
        case("what experts write", experts),
    ),
    headline=headline,
    exceptions=(
        "the prompts are in our words, with the official markup, order and watchword",
        "experts are local tools: faces, celebrities, arithmetic and the search of the web have none, and "
        "reading needs a tool "
        "for optical-character-recognition; photo editing is plain operations unless you give a tool",
        "a request of several files, on which the official parser may walk for ever, is read file by file",
    ),
)
