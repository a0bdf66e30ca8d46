"""What the studies share: whole files, and the processor that a number was measured on."""

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
    return said("model name") or platform.machine()


def fast_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16; without, it is ten times slower than float32 or more."""
    flags = (said("flags") or said("Features")).split()
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(flags)


def said(name: str) -> str:
    """What the system says of its first processor under a name, "" for nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")
