"""Evidence for AudioGPT: the protocol of langchain 0.0.101, which it pins, and the names of its tools."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import polymodal as pm
from polymodal.check.agents import Pair, case, mini, recorded, recording, shown
from polymodal.check.evidence import visual_chatgpt
from polymodal.check.record import Evidence, HeadlineResult, MissingData
from polymodal.errors import PolymodalError
from polymodal.systems.audiogpt.agent import OFFERS, PREFIX, SUFFIX

RECORD = recorded("audiogpt")


def outputs() -> Iterator[Pair]:
    return visual_chatgpt.outputs(RECORD)


def prompts() -> Iterator[Pair]:
    return visual_chatgpt.prompts(RECORD, PREFIX, SUFFIX)


def names() -> Iterator[Pair]:
    """Of its tools; the one for two channels is spelled in two ways there, of which this is the first."""
    official = [name for name in RECORD["tool_names"] if name != "Generate Binaural Audio From A Mono Audio Input"]
    yield sorted(offer.name for offer in OFFERS), sorted(official)


def planner(messages: Any, stop: Any = ()) -> str:
    """Writes down what is said, says it aloud, listens to that, answers."""
    told = messages[0]["content"].split("New input: ")[1]
    name = told.split("\n")[0].split()[-1]
    seen = [part.split("\n")[0] for part in told.split("Observation: ")[1:]]
    steps = (
        f" Yes\nAction: Transcribe Speech\nAction Input: {name}",
        f" Yes\nAction: Synthesize Speech Given the User Input Text\nAction Input: {seen[0] if seen else ''}",
        f" Yes\nAction: Transcribe Speech\nAction Input: {seen[1] if len(seen) > 1 else ''}",
        f" No\nAI: It says: {seen[0] if seen else ''}",
    )
    return steps[len(seen)]


def headline() -> HeadlineResult:
    """A recording is written down, said by another voice, and that is written down: the same words."""
    try:
        voice = pm.voice(offline=True)
    except PolymodalError as problem:
        raise MissingData(f"the voice is not here: {problem}") from None
    agent = pm.agent("audiogpt", planner=planner, tools=[mini(), voice])
    reply = agent.ask(recording(), "Say what is said here in another voice, and check it.")
    first, said, again = (step.result for step in reply.steps)
    same = set(first.lower().split()) & set(again.lower().split())
    wanted = (len(same) >= 0.7 * len(set(first.lower().split())), said.endswith(".wav"), len(reply.media["audio"]) == 1)
    return shown(reply, wanted, "scripted thoughts, Whisper and Kokoro, an audio book")


EVIDENCE = Evidence(
    oracle=f"official code: {RECORD['source']}",
    cases=(),
    recorded=(
        case("outputs of a planner", outputs),
        case("the prompt", prompts),
        case("names of tools", names),
    ),
    headline=headline,
    exceptions=(
        "prefix, suffix and descriptions are in our words: the repository's licence is not known",
        "eight tools (singing, style, separation, inpainting, talking heads, two channels, extraction, "
        "target sounds) have no "
        "local model here and are named as missing; of the others those are offered that a tool is given for",
        "requests are typed: the official mode in which they are spoken and answered aloud is a "
        "transcription before and a "
        "voice behind it",
    ),
)
