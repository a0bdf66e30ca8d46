"""What the system says of its processor: name and instructions, where it has /proc/cpuinfo."""

from __future__ import annotations

import platform
from pathlib import Path


def described() -> dict[str, str]:
    """The fields of the first processor by name; none where the system does not say."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def model_name() -> str:
    """Its name, or the kind of machine."""
    return described().get("model name") or platform.processor() or platform.machine()


def instructions() -> set[str]:
    """The sets of instructions that it has, as Linux names them: avx2, avx512_bf16, asimd."""
    said = described()
    return {*(said.get("flags") or said.get("Features") or "").split()}
