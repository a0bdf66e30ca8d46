"""VisCPM: talks about pictures, and paints them, in Chinese and English, on CPM-Bee (OpenBMB, 2023)."""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.viscpm.checkpoint import BEE_10B, CHAT, infer, parse_config
from polymodal.systems.viscpm.recipe import RECIPE

SYSTEM = System(
    id="viscpm",
    aliases=("VisCPM", "VisCPM-Chat"),
    year=2023,
    fusion=("C",),
    assembly="PrefixLM",
    inputs=("image", "text"),
    outputs=("text",),
    formats=(CheckpointFormat(name="official VisCPM-Chat", parse_config=parse_config, matches=hf(CHAT), infer=infer),),
    variants=(
        Variant(
            name="chat",
            parameters=10_318_225_408,
            config={"model_type": CHAT, **BEE_10B, "query_num": 64, "vision": {}},
            repository=Repository(name="openbmb/VisCPM-Chat", license="General Model License, non-commercial"),
        ),
    ),
    headline="talks about a picture in Chinese and in English on a language model that speaks both",
    reference="arXiv 2308.12038",
    recipe=RECIPE,
)
