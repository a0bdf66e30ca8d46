"""What the studies share: whole files, and the name of the processor that a number was measured on."""

from __future__ import annotations

import platform
from pathlib import Path


def write(path: Path, text: str) -> None:
    """The whole file or the one that was there."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def processor() -> str:
    """The processor's name where the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
