"""Evidence for Visual ChatGPT: langchain's parser and prompt, and the official history, names and sizes, were run."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

import polymodal as pm
from polymodal.agents import react
from polymodal.agents.files import new_name
from polymodal.agents.pictures import scaled
from polymodal.agents.react import Finish, Unreadable, Wording, cut_history, scratchpad, split_input
from polymodal.agents.tools import Tool
from polymodal.check.agents import Pair, case, mini, picture, recorded, shown
from polymodal.check.record import Evidence, HeadlineResult
from polymodal.data.media import Image
from polymodal.systems.visual_chatgpt.agent import MULTIPLE, OFFERS, PREFIX, SIDE, SUFFIX

RECORD = recorded("visual_chatgpt")


def outputs(record: dict[str, Any] = RECORD) -> Iterator[Pair]:
    """Actions, answers ("AI", text), and None for what cannot be read."""
    for row in record["outputs"]:
        try:
            found = react.read(row["output"])
        except Unreadable:
            yield None, row["read"]
            continue
        yield [react.AI, found.text] if isinstance(found, Finish) else [found.tool, found.input], row["read"]
    yield list(react.STOP), record["stop"]


def prompts(record: dict[str, Any] = RECORD, prefix: str = PREFIX, suffix: str = SUFFIX) -> Iterator[Pair]:
    """Byte for byte, with our words around the protocol and the official joining of tools, format and scratchpad."""
    named: list[Any] = [SimpleNamespace(name=name, description=about) for name, about in record["tools"]]
    slots = record["slots"] | {"agent_scratchpad": scratchpad([(log, seen) for log, seen in record["steps"]])}
    yield slots, record["slots"]
    yield Wording(prefix=prefix, suffix=suffix).prompt(named, slots), record["prompt"]
    if "format" in record:
        yield react.FORMAT, record["format"]


def histories() -> Iterator[Pair]:
    return ((cut_history(row["history"]), row["cut"]) for row in RECORD["histories"])


def names() -> Iterator[Pair]:
    """Of files, and of tools."""
    yield from ((new_name(name, maker, "abcd"), wanted) for name, maker, wanted in RECORD["names"])
    yield sorted(offer.name for offer in OFFERS), sorted(RECORD["tool_names"])


def sizes() -> Iterator[Pair]:
    """Of pictures; a side that the official code would make 0 is 64 here."""
    for width, height, *wanted in RECORD["sizes"]:
        found = scaled(Image(np.zeros((height, width, 3), dtype=np.uint8)), SIDE, MULTIPLE)
        assert isinstance(found, Image)
        yield list(found.picture.size), [max(side, 64) for side in wanted]


def splits() -> Iterator[Pair]:
    """The one string of a tool of two arguments; spaces around them fall away here."""
    tool = Tool(name="t", task="x", inputs={"image": "image", "text": "text"}, output="text", run=lambda **given: "")
    for row in RECORD["splits"]:
        found = split_input(tool, row["text"])
        yield [found["image"], found.get("text", "")], [part.strip() for part in row["parts"]]


def planner(messages: Any, stop: Any = ()) -> str:
    """Asks about the picture, draws its edges, calls a tool that is not there, opens a file that is not there,
    answers."""
    prompt = messages[0]["content"]
    name = prompt.split("New input: ")[1].split("\n")[0].split()[-1]
    steps = (
        f" Yes\nAction: Answer Question About The Image\nAction Input: {name}, What animal is this?",
        f" Yes\nAction: Edge Detection On Image\nAction Input: {name}",
        f" Yes\nAction: Fly Away\nAction Input: {name}",
        " Yes\nAction: Get Photo Description\nAction Input: image/0000.png",
        " No\nAI: It is a cat, and these are its edges.",
    )
    return steps[prompt.split("New input: ")[1].count("Observation: ")]


def headline() -> HeadlineResult:
    reply = pm.agent("visual-chatgpt", planner=planner, tools=[mini()]).ask(
        picture(), "What animal is it? Draw its edges."
    )
    done = reply.steps
    wanted = (len(done) == 4, "cat" in done[0].result.lower(), len(reply.media["image"]) == 1,
              "no tool" in done[2].error,
              "no file" in done[3].error, reply.finish_reason == "stop")  # fmt: skip
    return shown(reply, wanted, "scripted thoughts, mini's tools, a photograph")


EVIDENCE = Evidence(
    oracle=f"official code: {RECORD['source']}",
    cases=(),
    recorded=(
        case("outputs of a planner", outputs),
        case("the prompt", prompts),
        case("cut histories", histories),
        case("names of files and tools", names),
        case("sizes of pictures", sizes),
        case("inputs of tools", splits),
    ),
    headline=headline,
    exceptions=(
        "prefix, suffix and descriptions of tools are in our words; a prompt file of yours takes their "
        "place, in Chinese too",
        "an output that cannot be read, which ends the official run with an error, is told to the planner, three times",
        "five tools, which part or fill pictures, and the ControlNet pairs but Canny's edges have no local "
        "model here; image "
        "editing is plain operations (grey, blur, rotate, ...) and not InstructPix2Pix, unless you give a tool",
    ),
)
