"""GroundingGPT, first called LEGO: a LLaVA that finds things in pictures, and hears and watches too.

Paper: GroundingGPT: Language Enhanced Multi-modal Grounding Model (arXiv 2401.06071).

    picture -> 336 x 336 -> CLIP ViT-L/14, input of its last block [N, 576, 1024] -> linear, GELU, linear
    video   -> up to 64 frames -> EVA ViT-g -> Q-Former per frame -> + frame position -> Q-Former over time [N, 64, D]
    sound   -> 3 clips of 2 s -> ImageBind -> + clip position -> Q-Former over time [N, 8, D]
    each spliced between its marks into `###Human: ...###Assistant:` of Vicuna v1.5 -> text with boxes, PLACES       (C)

Traps: coordinates count in the padded square, with a comma and a space between them; files: `checkpoint.py`.
"""

from polymodal.checkpoints import official_llava_parts
from polymodal.data.coordinates import CoordinateText
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
from polymodal.systems.lego.checkpoint import parse_config

PLACES = CoordinateText(comma=", ")
CONFIG = {"model_type": "LEGO", "architectures": ["LEGOLlamaForCausalLM"], "hidden_size": 4096,
          "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "intermediate_size": 11008,
          "vocab_size": 32009, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096,
          "mm_vision_tower": "openai/clip-vit-large-patch14-336", "mm_vision_hidden_size": 1024,
          "mm_vision_select_layer": -2, "mm_use_im_start_end": True, "image_token_len": 576, "num_query_token": 32,
          "max_frame": 64, "video_token_len": 64, "sound_token_len": 8}  # fmt: skip
ADAPTERS = ("connectors.image", *(f"connectors.video.{name}" for name in ("qformer", "positions", "proj")),
            "connectors.audio")  # fmt: skip
SYSTEM = System(
    id="lego",
    aliases=("LEGO", "GroundingGPT"),
    year=2024,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image", "video", "audio"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="official LEGOLlamaForCausalLM",
            parse_config=parse_config,
            matches=ConfigMatch(model_types=("LEGO",), architectures=("LEGOLlamaForCausalLM",)),
            gather=lambda files: official_llava_parts.gather(files.folder),
            one_file=True,
        ),
    ),
    variants=(
        Variant(name="7b", parameters=9_399_826_049, config=CONFIG,
                repository=Repository(name="zwli/GroundingGPT", license="Apache-2.0; Llama 2 community")),
    ),
    headline="writes where things are in a picture, and answers about videos and sounds",
    reference="arXiv 2401.06071",
    recipe=(
        Stage(
            name="align",
            data=(
                DataSource(name="LLaVA pretrain", kind="image-text pairs"),
                DataSource(name="Valley", kind="video-text pairs"),
                DataSource(name="WavCaps", kind="audio-text pairs"),
            ),
            objective=LanguageModeling(),
            train=ADAPTERS,
            optimizer=AdamW(lr=1e-3, clip=1.0),
            schedule=Cosine(warmup_ratio=0.03),
            budget=Budget(epochs=1, max_length=2048, precision="bfloat16"),
            start="parts",
            note="64 a device, the number of devices was not published",
        ),
        Stage(
            name="ground",
            data=(
                DataSource(name="RefCOCO, Visual Genome, Flickr30k Entities", kind="conversations"),
                DataSource(name="DiDeMo, ActivityNet Captions, Charades-STA, VGGSS", kind="conversations"),
            ),
            objective=LanguageModeling(),
            train=(*ADAPTERS, "backbone"),
            optimizer=AdamW(lr=2e-5, clip=1.0),
            schedule=Cosine(warmup_ratio=0.03),
            budget=Budget(epochs=1, max_length=2048, precision="bfloat16"),
            start="align",
            note="then once more on instructions of all senses; 32 a device, two batches a step",
        ),
    ),
)  # fmt: skip
