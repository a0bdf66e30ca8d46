"""`act`: what a robot's arm does, told in words, from the pictures of step after step.

    polymodal act static_1.png gripper_1.png static_2.png gripper_2.png -i "lift the red block" -m FOLDER

A line for each step; --json one document, --jsonl a line of JSON for each step.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from polymodal.cli.catalogue import JSON
from polymodal.cli.model import MODEL, Load, loads_a_model
from polymodal.cli.perceive import JSONL

PICTURES = Annotated[
    list[str],
    typer.Argument(
        metavar="PICTURE...", help="Pictures of all cameras at each step, step by step.", show_default=False
    ),
]
TOLD = Annotated[str, typer.Option("--instruction", "-i", help="What the arm is to do.", show_default=False)]


@loads_a_model
def act(
    pictures: PICTURES,
    instruction: TOLD,
    model: MODEL = "roboflamingo",
    json: JSON = False,
    jsonl: JSONL = False,
    *,
    load: Load,
) -> None:
    """Act: a robot's next action for the pictures of each step, as an instruction says."""
    from polymodal.cli.inputs import expand, open_all
    from polymodal.cli.output import print_json
    from polymodal.errors import PromptError

    items = open_all(expand(pictures))
    episode = load(model).episode(instruction)
    views = len(episode.views)
    if len(items) % views:
        found = f"{len(items)} pictures" if len(items) != 1 else "1 picture"
        raise PromptError(f"a step takes {views} pictures, {' and '.join(episode.views)}; found {found} in all")
    rows = []
    for first in range(0, len(items), views):
        row = as_dict(episode.step(*items[first : first + views]), episode.steps)
        rows.append(row)
        if jsonl:
            print_json(row, lines=True)
        elif not json:
            print(as_words(row), flush=True)
    if json and not jsonl:
        print_json({"instruction": instruction, "steps": rows})


def as_dict(action: Any, step: int) -> dict[str, Any]:
    """The stable keys of an action in JSON: metres, radians."""
    return {"step": step, "position": list(action.position), "rotation": list(action.rotation),
            "gripper_open": action.gripper_open}  # fmt: skip


def as_words(row: dict[str, Any]) -> str:
    """A line for people, in millimetres and degrees."""
    x, y, z = (1000 * part for part in row["position"])
    a, b, c = (57.29578 * part for part in row["rotation"])
    gripper = "open" if row["gripper_open"] else "closed"
    return (
        f"{row['step']}: move {x:+.1f} {y:+.1f} {z:+.1f} mm, turn {a:+.1f} {b:+.1f} {c:+.1f} degrees, gripper {gripper}"
    )
