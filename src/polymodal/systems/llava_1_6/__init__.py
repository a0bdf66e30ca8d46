"""LLaVA-1.6 (LLaVA-NeXT): a picture as tiles at higher resolution, laid out again as rows of tokens.

Source: LLaVA-NeXT: Improved reasoning, OCR, and world knowledge (llava-vl.github.io, 2024-01-30).

    picture -> whole + up to 4 tiles of 336 x 336 -> CLIP ViT-L/14, input of its last block, no class token
            -> linear, GELU, linear -> tiles put together, padding cut off, a newline behind every row [q, D]
            -> spliced at `<image>` -> Vicuna, Mistral or Yi -> text                                 (fusion type C)

Traps: sizes and `image_grid_pinpoints` are (height, width); the whole picture is squashed, tiles keep the proportions;
padding is black; how many tokens a picture takes follows from its size alone; the outer config says whether the head
is tied.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from polymodal.backbones import hf_text
from polymodal.checkpoints.llava_format import llava_format
from polymodal.checkpoints.official_llava import official
from polymodal.connectors import hf_mlp
from polymodal.connectors.anyres import AnyResConfig, grids_of_pinpoints
from polymodal.data.chat_formats import LLAVA_SYSTEM, chatml_direct, mistral, vicuna
from polymodal.data.item_rules import SizeCount
from polymodal.data.processor import Modality, Processor
from polymodal.data.tiles import GridTiles, SizedTiles, pad_tiles
from polymodal.encoders import hf_vision
from polymodal.encoders.tiled import TiledConfig
from polymodal.errors import ConfigError
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.systems import (
    CheckpointFiles,
    CheckpointFormat,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    System,
    Variant,
    hf,
)
from polymodal.systems.llava_1_6.recipe import RECIPE
from polymodal.weights.keytable import KeyTable, rename

CLIP_L_336 = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
              "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14}  # fmt: skip
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
PICTURES = ModalityInputs(values="pixel_values", encoder=("image_sizes",), connector=("image_sizes",))


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A LlavaNextConfig dict -> the model; raises ConfigError for options that are not supported."""
    vision = hf_vision.parse_config(config.get("vision_config") or CLIP_L_336, config.get("vision_feature_layer", -2),
                                 config.get("vision_feature_select_strategy", "default"))  # fmt: skip
    tower, tile = vision.config, vision.config.image_size
    if not isinstance(tile, int) or tower.tokens != tower.patches:
        raise ConfigError("llava-1.6: vision_feature_select_strategy must leave one feature for each patch, so that "
                          "tiles can be laid out; expected 'default' with CLIP, 'full' with SigLIP")  # fmt: skip
    grids = grids_of_pinpoints(config.get("image_grid_pinpoints") or PINPOINTS, tile)
    tied = bool(config.get("tie_word_embeddings", False))
    text, text_keys = hf_text.decoder_of({**(config.get("text_config") or {}), "tie_word_embeddings": tied})
    connector = AnyResConfig(tile=tile, side=tower.grid, grids=grids, project=hf_mlp.parse_config(config))
    width = text.width

    def build() -> MultimodalLM:
        tiles = TiledConfig(encoder=tower, tile=tile, grids=grids).build()
        parts = tiles, connector.build(tower.out_width, width), text.build()
        placeholders = {"image": config.get("image_token_index", config.get("image_token_id", 32000))}
        return MultimodalLM(
            {"image": parts[0]}, {"image": parts[1]}, parts[2], placeholders, inputs={"image": PICTURES}
        )

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        transform = SizedTiles(tiles=GridTiles(tile=tile, grids=grids)).with_settings(files.preprocessor)
        tokenizer = files.tokenizer()
        default = vicuna(LLAVA_SYSTEM)
        if (config.get("text_config") or {}).get("model_type") == "mistral":
            default = mistral()
        elif "<|im_start|>" in tokenizer.special_tokens:
            default = chatml_direct()
        template, after = llava_format(files, tokenizer, default)
        image = Modality(name="image", placeholder="<image>", transform=transform, after=after,
                         tokens=SizeCount(connector.tokens_of), collate=pad_tiles)  # fmt: skip
        processor = Processor(tokenizer=tokenizer, template=template, modalities=(image,), max_length=text.max_length)
        return LoadedModel(model=module, processor=processor)

    rest = hf_mlp.HF_KEYS.prefixed("multi_modal_projector.", "connectors.image.project.")
    rest += KeyTable((rename("image_newline", "connectors.image.newline"),))
    rest += text_keys.prefixed("language_model.", "backbone.")
    keys = hf_mlp.with_in_memory_names(t + rest for t in vision.prefixed("vision_tower.", "encoders.image.tile."))
    return ModelSpec(build=build, keys=keys, in_memory=keys[-1], parts=drawing(tower, width), assemble=assemble)


def drawing(tower: hf_vision.ViTConfig, width: int) -> tuple[Part, ...]:
    side, seen = tower.image_size, f"N of [t, {tower.patches}, {tower.out_width}]"
    return (
        Part(slot="encoder", modality="image", name="CLIP ViT on every tile", prefix="encoders.image",
             input=f"[N, t, 3, {side}, {side}], sizes [N, 2]", output=seen),
        Part(slot="connector", modality="image", name="linear, GELU, linear; tiles laid out in rows with newlines",
             prefix="connectors.image", input=seen, output=f"N of [q, {width}]"),
        Part(slot="backbone", name="language model", prefix="backbone", input=f"[B, T, {width}]", output="[B, T, V]"),
    )  # fmt: skip


def published(width: int, depth: int, heads: int, ffn: int, **text: Any) -> dict[str, Any]:
    """The config.json of llava-hf's checkpoints."""
    text = {"model_type": "llama", "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads,
            "num_key_value_heads": heads, "intermediate_size": ffn, "vocab_size": 32064, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096, **text}  # fmt: skip
    return {"model_type": "llava_next", "architectures": ["LlavaNextForConditionalGeneration"], "text_config": text,
            "vision_config": CLIP_L_336, "image_token_index": 64000 if width == 7168 else 32000,
            "image_grid_pinpoints": PINPOINTS}  # fmt: skip


def variant(name: str, parameters: int, license: str, config: dict[str, Any]) -> Variant:
    return Variant(name=name, parameters=parameters, config=config,
                   repository=Repository(name=f"llava-hf/llava-v1.6-{name}-hf", license=license))  # fmt: skip


MISTRAL = {"model_type": "mistral", "num_key_value_heads": 8, "rope_theta": 1000000.0, "sliding_window": None,
           "max_position_embeddings": 32768}  # fmt: skip
YI = {"num_key_value_heads": 8, "rope_theta": 5000000.0, "vocab_size": 64064}
SYSTEM = System(
    id="llava-1.6",
    aliases=("LLaVA-1.6", "LLaVA-NeXT"),
    year=2024,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(CheckpointFormat(name="transformers LlavaNextForConditionalGeneration", parse_config=parse_config,
                    matches=hf("llava_next", "LlavaNextForConditionalGeneration")), official("anyres")),
    variants=(
        variant("vicuna-7b", 7_063_431_168, "Llama 2 community", published(4096, 32, 32, 11008)),
        variant("mistral-7b", 7_566_747_648, "Apache-2.0", published(4096, 32, 32, 14336, **MISTRAL)),
        variant("vicuna-13b", 13_351_499_776, "Llama 2 community", published(5120, 40, 40, 13824)),
        variant("34b", 34_752_083_968, "Apache-2.0", published(7168, 60, 56, 20480, **YI)),
    ),
    headline="reads pictures of any proportions at up to four times the pixels, tile by tile",
    reference="llava-vl.github.io/blog/2024-01-30-llava-next",
    recipe=RECIPE,
)  # fmt: skip
