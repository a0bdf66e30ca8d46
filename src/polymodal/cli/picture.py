"""`show --svg` and `show --png`: where the picture goes, and what a file's ending says about its format."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymodal.cli.cleaning import own
from polymodal.errors import ConfigError

if TYPE_CHECKING:
    from polymodal.diagram.scene import Scene
    from polymodal.systems import System, Variant

STANDARD_OUTPUT = Path("-")


def format_of(target: Path, option: str) -> str:
    """ "svg" or "png", by the ending; of standard output what the option says.  Raises ConfigError for others."""
    if target == STANDARD_OUTPUT:
        return option
    ending = target.suffix.lower().removeprefix(".")
    if ending not in ("svg", "png"):
        found = f"'.{ending}'" if ending else "no ending"
        raise ConfigError(f"--{option} {target}: pictures are .svg or .png files, found {found}; '-' writes to stdout")
    return ending


def draw_pictures(
    systems: Sequence[tuple[System, Variant]], targets: Sequence[tuple[Path, str]], stage: str | None
) -> None:
    """Write one picture of all systems to each target (path, option), whose formats are known to be right.

    Raises UnknownName for a stage that none of the systems has, ConfigError for a file that cannot be written.
    """
    from polymodal.diagram.describe import describe
    from polymodal.diagram.layout import scene_of
    from polymodal.systems import unknown

    stages = [each.name for system, _ in systems for each in system.recipe]
    if stage is not None and stage not in stages:
        names = ", ".join(system.id for system, _ in systems)
        raise unknown("training stage", stage, dict.fromkeys(stages), of=names)
    scene = scene_of([describe(system, variant, stage) for system, variant in systems])
    write_scene(scene, targets)


def draw_map(
    systems: Sequence[System], targets: Sequence[tuple[Path, str]], proved: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write the map of these systems to each target.  Raises ConfigError for a wrong ending, and for no system."""
    from polymodal.diagram.survey_map import scene_of_systems

    for path, option in targets:
        format_of(path, option)
    if not systems:
        raise ConfigError("no system is all of that: there is nothing to draw")
    write_scene(scene_of_systems(systems, proved), targets)


def write_scene(scene: Scene, targets: Sequence[tuple[Path, str]]) -> None:
    """Write a picture to each target in the format of its ending."""
    from polymodal.diagram.png import to_png
    from polymodal.diagram.svg import to_svg

    for target, option in targets:
        document = (
            to_svg(scene).encode("utf-8", "backslashreplace") if format_of(target, option) == "svg" else to_png(scene)
        )
        _write(target, document)


def _write(target: Path, document: bytes) -> None:
    if target == STANDARD_OUTPUT:
        stream = own(sys.stdout).buffer
        stream.write(document)
        stream.flush()
        return
    try:
        target.write_bytes(document)
    except OSError as problem:
        raise ConfigError(f"cannot write {target}: {problem.strerror}") from problem
