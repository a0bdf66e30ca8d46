"""How 4M's demonstration writes each modality where nobody says otherwise (fourm/demo_4M_sampler.py of its code).

    a picture is given      grids at once, hardly any chance, twice the condition; words with a little chance
    none is                 grids in 8 to 50 random steps, warm at first; CLIP's features and pictures with the most
    at 448 pixels           8 steps, the surest first
Trap: a step writes a token at least, so small grids take fewer steps than the published 196 and 256 places do.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from polymodal.encoders.modality_embeddings import ModalityConfig
from polymodal.generation.masked_modalities import Written

WORDS = {"caption": 0.3, "det": 0.3, "sam_instance": 0.01}  # temperatures; of the others 0.1
PICTURES = ("rgb@224", "tok_rgb@224")
FALLING = "onex:0.5:0.5"
FEATURES = ("tok_dinov2@224", "tok_imagebind@224")


def usual(modality: str, config: ModalityConfig, given: Collection[str]) -> Written:
    """given: modalities that are there."""
    if config.is_sequence:
        return Written(modality=modality, temperature=WORDS.get(modality, 0.1))
    if modality.endswith("@448"):
        return Written(modality=modality, scheme="maskgit", steps=min(8, config.places), temperature=1.0, guidance=2.0)
    grid: dict[str, Any] = {"modality": modality, "scheme": "roar", "guidance": 2.0}
    if any(name in given for name in PICTURES):
        return Written(**grid, steps=1, temperature=0.01)
    if modality in FEATURES:
        return Written(**grid, steps=min(8, config.places), temperature=0.01)
    if modality == "tok_clip@224":
        grid |= {"guidance": 3.0, "temperature": 5.0}
    steps = {"tok_clip@224": 50, "tok_rgb@224": 25}.get(modality, 8)
    return Written(**{"temperature": 3.0, "temperatures": FALLING, "steps": min(steps, config.places), **grid})
