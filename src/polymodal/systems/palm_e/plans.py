"""Plans in words, as PaLM-E's three robots have them, and the steps in them.

    "First grasp <obj 2> and place it on the table, then grasp <obj 1>."     grasp <obj 2> | place it on ... | grasp ...
    "1. Find a sponge, 2. Pick up the sponge"                                Find a sponge | Pick up the sponge
    "Step 1. Push the green star to the bottom left. Step 2. ..."

A robot in a kitchen is asked for one step at a time, with what it did and what it sees: `kitchen`, `read_step`.
Trap: what a step means is for the policy that carries it out; nothing here knows which skills a robot has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from polymodal.errors import PromptError
from polymodal.systems.palm_e.sentences import REFERRAL

Form = Literal["first then", "numbers", "steps"]
DONE = "terminate"
_BETWEEN = re.compile(r",? then |,? and (?=(?:place|grasp)\b)")
_NUMBER = re.compile(r"(?:^|(?<=[\s,.]))(?P<step>Step )?(?P<number>\d+)\.\s+")


@dataclass(frozen=True)
class Step:
    """One step in words.  objects: the numbers of those it refers to as `<obj 1>`."""

    text: str
    objects: tuple[int, ...] = ()

    @classmethod
    def of(cls, text: str) -> Step:
        return cls(text=text, objects=tuple(int(number) for number in REFERRAL.findall(text)))


def read_plan(answer: str) -> tuple[Step, ...]:
    """The steps of an answer in any of the forms; an answer in none of them is one step.

    Raises PromptError for an answer without words and for numbers that do not count from the first one on.
    """
    text = answer.strip().removeprefix("A:").strip()
    if not text:
        raise PromptError("plan: expected steps in words, found none")
    found = list(_NUMBER.finditer(text))
    if not found or found[0].start():
        words = re.sub(r"^First,? ", "", text).rstrip(".")
        return tuple(Step.of(step) for step in _BETWEEN.split(words))
    numbers = [int(each["number"]) for each in found]
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
        raise PromptError(f"plan: expected steps one after another, found the numbers {numbers}")
    ends = [*(each.start() for each in found[1:]), len(text)]
    pieces = (text[each.end() : end].strip().rstrip(",.") for each, end in zip(found, ends, strict=True))
    return tuple(map(Step.of, pieces))


def write_plan(steps: Sequence[str], form: Form = "first then") -> str:
    """Steps as a plan of that form.  Raises PromptError for none."""
    if not steps:
        raise PromptError("plan: expected one step at least, found none")
    if form == "numbers":
        return ", ".join(f"{number}. {step}" for number, step in enumerate(steps, 1)) + "."
    if form == "steps":
        return " ".join(f"Step {number}. {step}." for number, step in enumerate(steps, 1))
    text = f"First {steps[0]}"
    for step in steps[1:]:
        text += f" and {step}" if step.startswith("place") else f", then {step}"
    return f"{text}."


def kitchen(instruction: str, taken: Sequence[str] = ()) -> str:
    """The words that ask for the next step; the picture of what the robot sees goes with them in the same message."""
    return f"Human: {instruction} Robot:" + (f" {write_plan(taken, 'numbers')}" if taken else "")


def read_step(answer: str) -> Step | None:
    """The next step of a robot in a kitchen, None where it is done."""
    step = read_plan(answer)[0]
    return None if step.text.lower() == DONE else step
