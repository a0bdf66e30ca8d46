"""The colours of the pictures, light and dark, by what they stand for.

kind-*: boxes of a kind of module.  state-*: boxes by what a stage does with them, ink-* the words on those.  A modality
has a strong colour (its arrows and marks) under its own name, and a pale one, tint-*, for what lies behind text.
"""

from __future__ import annotations

COLOURS: dict[str, tuple[str, str]] = {
    "page": ("#ffffff", "#0b1120"),
    "plain": ("#ffffff", "#111827"),
    "ink": ("#0f172a", "#f1f5f9"),
    "muted": ("#475569", "#cbd5e1"),
    "line": ("#94a3b8", "#64748b"),
    "group": ("#fdfdfc", "#1a1f2b"),
    "row": ("#ffffff", "#283040"),
    "kind-input": ("#ffffff", "#111827"),
    "kind-output": ("#ffffff", "#111827"),
    "kind-tool": ("#f1f5f9", "#1e293b"),
    "kind-encoder": ("#dbeafe", "#172f5c"),
    "kind-connector": ("#d9f5e3", "#123d2a"),
    "kind-sequence": ("#f8fafc", "#182033"),
    "kind-backbone": ("#fef3c7", "#3a2f10"),
    "kind-space": ("#ede9fe", "#2c2457"),
    "kind-head": ("#fee4d6", "#4a2414"),
    "kind-generator": ("#fae8ff", "#431d4d"),
    "matrix": ("#ddd6fe", "#4c3f91"),
    "matrix-pair": ("#6d28d9", "#c4b5fd"),
    "state-trained": ("#ffd9a8", "#6b3d0a"),
    "state-partly": ("#ffeccc", "#4d3312"),
    "state-lora": ("#f5d0fe", "#5b1f66"),
    "state-frozen": ("#e3eef7", "#1b2a3a"),
    "ink-trained": ("#8a4500", "#ffc98a"),
    "ink-partly": ("#8a4500", "#ffd9a8"),
    "ink-lora": ("#86198f", "#f5b8ff"),
    "ink-frozen": ("#31577a", "#a9cdec"),
    "text": ("#475569", "#cbd5e1"),
    "image": ("#2563eb", "#6ea8fe"),
    "video": ("#7c3aed", "#b794f6"),
    "audio": ("#d9480f", "#ff9a5c"),
    "depth": ("#0f766e", "#4fd1c5"),
    "thermal": ("#c81e1e", "#ff8a8a"),
    "imu": ("#4d7c0f", "#a3d65c"),
    "other": ("#a21caf", "#e28bf0"),
    "tint-text": ("#eef2f6", "#273244"),
    "tint-image": ("#dbe7ff", "#1c3468"),
    "tint-video": ("#e9defd", "#3a2569"),
    "tint-audio": ("#ffe3d3", "#552712"),
    "tint-depth": ("#d3f2ee", "#12423d"),
    "tint-thermal": ("#ffdede", "#561c1c"),
    "tint-imu": ("#e6f3d3", "#2c4410"),
    "tint-other": ("#f8dcfb", "#4b1552"),
}


def name_of(colour: str) -> str:
    """The name in `COLOURS`; a modality of a system's own is "other"."""
    if colour in COLOURS:
        return colour
    return "tint-other" if colour.startswith("tint-") else "other"
