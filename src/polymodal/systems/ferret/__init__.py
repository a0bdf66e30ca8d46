"""Ferret: a LLaVA that is pointed at regions of any form, by numbers and by a feature of what lies inside.

Paper: Ferret: Refer and Ground Anything Anywhere at Any Granularity (arXiv 2310.07704).

    picture -> 336 x 336, proportions lost -> CLIP ViT-L/14, input of its last block, no class token [N, 576, 1024]
            -> linear [N, 576, D] -> spliced at id -200
    region  -> 512 points inside -> spatial-aware sampler over the same features [N, 1, D] -> spliced at `<region_fea>`
    "What is the [x1, y1, x2, y2] <region_fea>?" -> Vicuna v1.3 -> text with boxes                      (fusion type C)

Traps: `pm.array([...], "region")` behind the picture it is in (`regions.py`); answers hold boxes without the token; the
picture is encoded once more for each region.
"""

from polymodal.checkpoints import official_llava_parts
from polymodal.systems import (
    AdamW,
    Budget,
    CheckpointFormat,
    ConfigMatch,
    Cosine,
    DataSource,
    LanguageModeling,
    Repository,
    Stage,
    System,
    Variant,
)
from polymodal.systems.ferret.checkpoint import parse_config


def variant(name: str, parameters: int, width: int, depth: int, heads: int, ffn: int) -> Variant:
    """A published size; its config.json is LLaMA's, and `mm_*`."""
    config = {"model_type": "ferret", "architectures": ["FERRETLlamaForCausalLM"], "hidden_size": width,
              "num_hidden_layers": depth, "num_attention_heads": heads, "intermediate_size": ffn, "vocab_size": 32001,
              "rms_norm_eps": 1e-6, "max_position_embeddings": 2048, "mm_hidden_size": 1024,
              "mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_vision_select_layer": -2,
              "mm_use_im_start_end": False, "mm_use_im_patch_token": False, "region_geo_sampler": True,
              "sampler_pooler_mode": "max", "im_region_fea_token": 32000}  # fmt: skip
    release = Repository(name=f"apple/ml-ferret ferret-{name}-delta.zip", kind="official",
                         license="CC BY-NC 4.0; LLaMA")  # fmt: skip
    return Variant(name=name, parameters=parameters, config=config, repository=release, difference_to="Vicuna v1.3")


SYSTEM = System(
    id="ferret",
    aliases=("Ferret",),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image", "region"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="official FERRETLlamaForCausalLM",
            parse_config=parse_config,
            matches=ConfigMatch(model_types=("ferret",), architectures=("FERRETLlamaForCausalLM",)),
            gather=lambda files: official_llava_parts.gather(files.folder),
            one_file=True,
        ),
    ),
    variants=(variant("7b", 7_090_199_564, 4096, 32, 32, 11008), variant("13b", 13_369_749_516, 5120, 40, 40, 13824)),
    headline="answers about points, boxes and free forms of a picture, and writes boxes",
    reference="arXiv 2310.07704",
    recipe=(
        Stage(
            name="refer and ground",
            data=(DataSource(name="GRIT", kind="conversations", samples=1_100_000),),
            objective=LanguageModeling(),
            train=("connectors.image", "backbone"),
            optimizer=AdamW(lr=2e-5, clip=1.0),
            schedule=Cosine(warmup_ratio=0.03),
            budget=Budget(batch=128, epochs=3, max_length=2048, precision="bfloat16"),
            start="parts",
            note="the linear starts from LLaVA's of 336 pixels; instructions three times, relations and regions of "
            "Visual Genome one fifth",
        ),
    ),
)
