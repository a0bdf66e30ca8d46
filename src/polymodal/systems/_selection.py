"""Which systems a person asks for, and the survey's lines of work, told from the records alone.

line_of_work(record)                   "understanding", "one further output", "any to any", ...
select(records, Wanted(input="audio", years="2023"))     those that take sound, of 2023
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polymodal.errors import ConfigError

if TYPE_CHECKING:
    from polymodal.systems._record import System

MADE = ("image", "video", "audio", "speech", "music", "box", "boxes", "keypoints", "mask", "masks", "action", "depth")
"""Outputs beyond words that a system makes; classes, matches and embeddings are no such output."""
FOUNDATIONS, TEXT, METHODS = "foundations", "text models", "fusion methods"
UNDERSTANDING, FURTHER, ANY = "understanding", "one further output", "any to any"
LINES = (FOUNDATIONS, TEXT, UNDERSTANDING, FURTHER, ANY, METHODS)


def line_of_work(system: System) -> str:
    """Where the survey places a system: its three lines of work over time, or what they are built from.

    "any to any": makes two kinds of things beside text, or calls other models; "one further output": makes one;
    "understanding": answers in words about media; "text models", "foundations", "fusion methods": the rest.
    """
    made = {each for each in system.outputs if each in MADE}
    if "method" in system.fusion:
        return METHODS
    if system.is_agent or len(made) > 1:
        return ANY
    if made:
        return FURTHER
    if not system.fusion or "fusion-encoder" in system.fusion:
        return TEXT if set(system.inputs) == {"text"} else FOUNDATIONS
    return UNDERSTANDING


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a system must be; "" asks nothing.

    fusion: A, B, C, D, "fusion-encoder", "method", "agent" or "none".  input, output: modalities.  years: "2023" or
    "2021-2023".  line: one of LINES.
    """

    fusion: str = ""
    input: str = ""
    output: str = ""
    years: str = ""
    line: str = ""


def select(records: Sequence[System], wanted: Wanted) -> list[System]:
    """Those that are all of it, in order.  Raises ConfigError for a word that no record has, with those that are."""
    found = list(records)
    for what, word, words in (
        ("fusion", wanted.fusion, fusions),
        ("input", wanted.input, lambda each: each.inputs),
        ("output", wanted.output, lambda each: each.outputs),
        ("line", wanted.line, lambda each: (line_of_work(each),)),
    ):
        if word:
            found = having(records, found, what, word, words)
    if wanted.years:
        first, last = years_of(wanted.years)
        found = [each for each in found if first <= each.year <= last]
    return found


def fusions(system: System) -> Sequence[str]:
    """Its letters; "none" for a model of one modality or of separate encoders."""
    return system.fusion or ("none",)


def having(
    records: Sequence[System],
    found: Sequence[System],
    what: str,
    word: str,
    words: Callable[[System], Sequence[str]],
) -> list[System]:
    """Of `found` those with the word, whatever its case."""
    known = {each.lower(): each for record in records for each in words(record)}
    if word.lower() not in known:
        raise ConfigError(f"no system has {what} {word!r}; there are {', '.join(sorted(set(known.values())))}")
    return [each for each in found if known[word.lower()] in words(each)]


def years_of(text: str) -> tuple[int, int]:
    """ "2023" -> (2023, 2023), "2021-2023" -> (2021, 2023).  Raises ConfigError for anything else."""
    match = re.fullmatch(r"(\d{4})(?:-(\d{4}))?", text.strip())
    if match is None:
        raise ConfigError(f"--year {text!r} is no year; expected one as 2023, or two as 2021-2023")
    first, last = int(match[1]), int(match[2] or match[1])
    if first > last:
        raise ConfigError(f"--year {text}: {first} comes after {last}")
    return first, last


GROUPS: Mapping[str, Callable[[System], str]] = {
    "fusion": lambda each: " + ".join(fusions(each)),
    "year": lambda each: str(each.year),
    "line": line_of_work,
    "output": lambda each: ", ".join(each.outputs),
    "input": lambda each: ", ".join(each.inputs),
}


def grouped(records: Sequence[System], by: str) -> dict[str, list[System]]:
    """Group -> its systems; lines of work in the survey's order, others sorted.  Raises ConfigError."""
    if by not in GROUPS:
        raise ConfigError(f"systems are grouped by {', '.join(GROUPS)}; found {by!r}")
    groups: dict[str, list[System]] = {}
    for each in records:
        groups.setdefault(GROUPS[by](each), []).append(each)
    order = LINES.index if by == "line" else str
    return {name: groups[name] for name in sorted(groups, key=order)}  # type: ignore[arg-type]
