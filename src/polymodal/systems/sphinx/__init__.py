"""SPHINX: four networks look at a picture at once, and at its quarters in the larger model, in front of LLaMA 2.

Papers: SPHINX: The Joint Mixing of Weights, Tasks, and Visual Embeddings (arXiv 2311.07575); SPHINX-X (2402.05935).

    picture -> square on the mean colour -> 224 x 224, or 448 x 448 as a small whole and four quarters
    each view -> BLIP-2's ViT-g and Q-Former  -> linear, norm [32, D] | CLIP ViT-L, ConvNeXt-XXL, DINOv2-g side by side
              -> linear, norm [257, D];  start, 32, 257, end  -> 291 tokens a view, right behind `<s>`          (type C)

    SPHINX-Tiny: ConvNeXt and DINOv2 alone, on 512 or 1024 pixels, in front of TinyLlama; 259 tokens a view

Traps: the class of a checkpoint (`llama_ens`: one view, `llama_ens5`: five) stands in meta.json alone, with the same
tensors; one picture a conversation, in front of everything, the system message too; CLIP was trained with the quick
GELU, which the code builds only where it fetches OpenAI's weights itself; boxes count in the padded square.
"""

from __future__ import annotations

from typing import Any

from polymodal.systems import CheckpointFormat, ConfigMatch, Repository, System, Variant
from polymodal.systems.sphinx.checkpoint import CLASSES, ENTRY, gather, parse_config
from polymodal.systems.sphinx.recipe import RECIPE

LLAMA_2: dict[str, Any] = {"dim": 5120, "n_layers": 40, "n_heads": 40, "multiple_of": 256, "norm_eps": 1e-5}
TINY: dict[str, Any] = {"dim": 2048, "n_layers": 22, "n_heads": 32, "n_kv_heads": 4, "multiple_of": 256,
                        "norm_eps": 1e-5}  # fmt: skip
HUB = "Alpha-VLLM/LLaMA2-Accessory finetune/mm/SPHINX"


def variant(name: str, kind: str, parameters: int = 16_462_228_609) -> Variant:
    tiny = kind.endswith("light")
    release = Repository(name=f"{HUB}/{name}", kind="official", license="" if tiny else "Llama 2")
    config = {**(TINY if tiny else LLAMA_2), "vocab_size": -1, "llama_type": kind}
    return Variant(name=name.lower(), parameters=parameters, config=config, repository=release)


SYSTEM = System(
    id="sphinx",
    aliases=("SPHINX", "SPHINX-13B", "SPHINX-1k", "SPHINX-v2-1k", "SPHINX-Tiny"),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="LLaMA2-Accessory SPHINX",
            matches=ConfigMatch(score=lambda config: config["llama_type"] in CLASSES, keys=("llama_type",)),
            parse_config=parse_config,
            entry=ENTRY,
            gather=gather,
            one_file=True,
        ),
    ),
    variants=(
        variant("SPHINX", "llama_ens"),
        variant("SPHINX-1k", "llama_ens5"),
        variant("SPHINX-v2-1k", "llama_ens5"),
        variant("SPHINX-Tiny", "llama_ens_light", 3_089_374_592),
        variant("SPHINX-Tiny-1k", "llama_ens5_light", 3_089_374_592),
    ),
    headline="mixes what a Q-Former, CLIP, ConvNeXt and DINOv2 see, in a picture and in its quarters",
    reference="arXiv 2311.07575",
    recipe=RECIPE,
)
