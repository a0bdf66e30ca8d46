"""What the studies share: whole files, and at which precision a processor is fast."""

from __future__ import annotations

from pathlib import Path

from polymodal.cpu import instructions


def write(path: Path, text: str) -> None:
    """The whole file or the one that was there."""
    draft = path.with_name(path.name + ".part")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def fast_bfloat16() -> bool:
    """Whether the processor multiplies in bfloat16; without, it is ten times slower than float32 or more."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(instructions())
