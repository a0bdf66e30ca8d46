"""`ask --boxes`: what the answer is about, drawn on a copy of each picture and written as JSON beside it.

Where a model tells the joints of a body, they are drawn and written too, as `poses`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polymodal.errors import ConfigError, PromptError


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures among a conversation's inputs, and what each is called."""

    names: tuple[str, ...]
    records: tuple[Any, ...]

    @classmethod
    def of(cls, inputs: Sequence[Any], content: Sequence[Any]) -> Pictures:
        """inputs: where the content comes from.  Raises PromptError where there is no picture among them."""
        from polymodal.data.media import Image

        found = [(each.name, item) for each, item in zip(inputs, content, strict=True) if isinstance(item, Image)]
        if not found:
            raise PromptError("--boxes: there is no picture to find things in; give a picture's file")
        names, records = zip(*found, strict=True)
        return cls(names=names, records=records)


def stem_of(name: str, index: int) -> str:
    """What the files of a picture are called: by its file, or by its number where the name is none (standard input)."""
    path = Path(name)
    return path.stem if path.suffix and path.name else f"picture-{index + 1}"


def write_boxes(grounding: Any, pictures: Pictures) -> list[dict[str, Any]]:
    """STEM.boxes.png and STEM.boxes.json in this folder for each picture; returns what the JSON files hold, of all.

    Raises ConfigError for a file that cannot be written.
    """
    from polymodal.pipelines.grounding import draw_poses, draw_things

    told, stems = [], [stem_of(name, index) for index, name in enumerate(pictures.names)]
    for index, (name, record) in enumerate(zip(pictures.names, pictures.records, strict=True)):
        stem = stems[index] if stems.count(stems[index]) == 1 else f"{stems[index]}-{index + 1}"
        target, image = Path(f"{stem}.boxes.png"), record.picture
        things = [thing for thing in grounding.things if thing.picture == index]
        entry = {"file": name, "width": image.width, "height": image.height, "annotated": str(target),
                 "boxes": [thing.as_dict(image.size) for thing in things]}  # fmt: skip
        if poses := [pose for pose in grounding.poses if pose.picture == index]:
            entry["poses"] = [pose.as_dict(image.size) for pose in poses]
        try:
            draw_poses(draw_things(image, things), poses).save(target)
            target.with_suffix(".json").write_text(json.dumps(entry, indent=1, ensure_ascii=False) + "\n", "utf-8")
        except OSError as problem:
            raise ConfigError(f"--boxes: {target} cannot be written: {problem.strerror or problem}") from problem
        told.append(entry)
    return told


def tell_boxes(told: Sequence[dict[str, Any]]) -> None:
    """One line for each thing, and where the drawing lies, on standard error: stdout holds the answer alone."""
    for entry in told:
        for box in entry["boxes"]:
            sure = "" if box["score"] is None else f" {box['score']:.2f}"
            print(f"{box['label'] or '(no name)'}{sure} at {box['box']}", file=sys.stderr)
        for joint in (joint for pose in entry.get("poses", ()) for joint in pose["joints"] if joint["seen"]):
            print(f"{joint['name']} at {joint['point']}", file=sys.stderr)
        print(f"[{len(entry['boxes'])} boxes of {entry['file']} drawn in {entry['annotated']}]", file=sys.stderr)
