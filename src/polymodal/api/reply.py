"""What a model gives back: the answer, what it cost and how sure it was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polymodal.agents.record import Step
    from polymodal.pipelines.transcription.transcribe import Segment

SECONDS = ("load", "decode", "encode", "prefill", "generate")


@dataclass(frozen=True, kw_only=True)
class Reply:
    """An answer.

    tokens: prompt tokens by modality ("text", "image", "audio", ...) and "generated".
    seconds: "load" (the model, once), "decode" (reading and preparing media), "encode" (encoders and connectors, and
    transcribing recordings that enter as text), "prefill" (the backbone over the prompt, to the first token),
    "generate" (the tokens after it).
    logprobs: natural log-probability of each generated token, where it was asked for: `chat(..., logprobs=0)`.
    finish_reason: "stop" for an end that the model wrote or a stop text, "length" for an answer that was cut at
    max_tokens or where the context ends, "repetition" for one that was cut because it went round in a circle, or what
    `Stream.stop` was called with.
    media: what `draw` made, by modality, in the order the answer asks for it; pictures that an answer asked for on its
    way, of a model that cuts them out itself; "audio": what `speak` said, a Speech.
    heard: the words that a model understood of a recording, where its answer says them (`speak`).
    segments: of a transcript, its stretches of speech with `start` and `end` in seconds.
    steps: of an agent, what it did, also what was refused or failed; its finish_reason may be "steps", "seconds",
    "loop" or
    "unreadable" or "planner" too (agents/record.py).
    """

    text: str
    model: str
    tokens: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    logprobs: tuple[float, ...] = ()
    finish_reason: str = "stop"
    media: Mapping[str, list[Any]] = field(default_factory=dict)
    heard: str = ""
    segments: tuple[Segment, ...] = ()
    steps: tuple[Step, ...] = ()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, kw_only=True)
class Label:
    """One of the labels asked about and its probability among them (they sum to 1)."""

    label: str
    probability: float
