"""Published checkpoints of InternVL-Chat: config to model, names of tensors, processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones import hf_text
from polymodal.connectors.shuffle_mlp import PUBLISHED_KEYS, ShuffleMLPConfig
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Special, Template, Turn, Words
from polymodal.data.tiles import AspectTiles
from polymodal.encoders import intern_vit
from polymodal.errors import ConfigError
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    Variant,
)

CONTEXT, END = "<IMG_CONTEXT>", "<|im_end|>"
SYSTEM_WORDS = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, 是一个有用无害的人工智能助手。"
)
FAMILIES = {"InternLM2ForCausalLM": "internlm2", "LlamaForCausalLM": "llama", "Qwen2ForCausalLM": "qwen2"}
BEGIN = {"internlm2-chat": (Special(name="<s>"),), "Hermes-2": ()}  # by the template's name, as training writes it
INPUTS = {"image": ModalityInputs(values="pixel_values", connector=("tile_counts",))}


def template_of(name: str) -> Template:
    """ChatML without line ends between turns."""
    if name not in BEGIN:
        raise ConfigError(f"internvl: template: expected {' or '.join(BEGIN)}, found {str(name)[:40]!r}")

    def turn(role: str) -> Turn:
        answer = role == "assistant"
        return Turn(before=(Special(name="<|im_start|>"), Words(text=f"{role}\n")),
                    after=(Special(name=END, loss_mask=answer),), loss_mask=answer)  # fmt: skip

    turns = {role: turn(role) for role in ("system", "user", "assistant")}
    return Template(turns=turns, begin=BEGIN[name], ask=turn("assistant").before,
                    default_system=SYSTEM_WORDS)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class TileTokens:
    """As many tokens as the tiles of a picture give."""

    each: int

    def __call__(self, tiles: Tensor) -> int:
        return len(tiles) * self.each


def tiled(items: Sequence[Tensor]) -> dict[str, Any]:
    """`pixel_values` [all tiles, 3, side, side], and how many each picture has, on the host."""
    return {"pixel_values": torch.cat(list(items)), "tile_counts": tuple(map(len, items))}


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """An InternVLChatConfig dict -> the model; raises ConfigError for options that are not supported."""
    vision, language = config.get("vision_config") or {}, config["llm_config"]
    family = (language.get("architectures") or [""])[0]
    if family not in FAMILIES:
        raise ConfigError(f"internvl: llm_config.architectures: expected {', '.join(FAMILIES)}; found {family!r}")
    for name in ("pad2square", "use_backbone_lora", "use_llm_lora"):
        if config.get(name):
            raise ConfigError(f"internvl: {name} {config[name]!r} is not supported; expected none")
    ratio = config.get("downsample_ratio", 0.5)
    if ratio <= 0 or int(1 / ratio) * ratio != 1:
        raise ConfigError(f"internvl: downsample_ratio: expected one over a whole number, found {ratio}")
    swapped = {"v1": True, "v2": False}.get(config.get("ps_version", "v1"))
    if swapped is None:
        raise ConfigError(f"internvl: ps_version: expected 'v1' or 'v2', found {config['ps_version']!r}")
    tower = intern_vit.parse_config(vision, config.get("select_layer", -1))
    defaults = {**intern_vit.DEFAULTS, **vision}
    side: int = config.get("force_image_size") or defaults["image_size"]
    text, table = hf_text.decoder_of({**language, "model_type": FAMILIES[family], "tie_word_embeddings": False})
    connector = ShuffleMLPConfig(factor=int(1 / ratio), swapped=swapped)
    patches = (side // defaults["patch_size"]) ** 2
    each = connector.tokens(patches)
    placeholder = config.get("img_context_token_id", text.vocab_size - CONTEXT_FROM_END)

    def build() -> MultimodalLM:
        parts = tower.build(), connector.build(tower.width, text.width), text.build()
        return MultimodalLM({"image": parts[0]}, {"image": parts[1]}, parts[2], {"image": placeholder}, inputs=INPUTS,
                            positions_ignore_padding=True)  # fmt: skip

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        tokenizer = files.tokenizer(eos=END)
        if (found := tokenizer.special(CONTEXT)) != placeholder:
            raise ConfigError(f"internvl: the vocabulary has {CONTEXT} at {found}, the model expects {placeholder}; "
                              "say img_context_token_id in config.json")  # fmt: skip
        dynamic = bool(config.get("dynamic_image_size", False))
        tiles = AspectTiles(
            tile=side, min_tiles=config.get("min_dynamic_patch", 1) if dynamic else 1,
            max_tiles=config.get("max_dynamic_patch", 6) if dynamic else 1,
            thumbnail=bool(config.get("use_thumbnail", False)))  # fmt: skip
        picture = Modality(
            name="image", placeholder=CONTEXT, transform=tiles, tokens=TileTokens(each=each), collate=tiled,
            before=(Special(name="<img>"),), after=(Special(name="</img>"), Words(text="\n")))  # fmt: skip
        processor = Processor(tokenizer=tokenizer, template=template_of(config.get("template", "internlm2-chat")),
                              modalities=(picture,), max_length=text.max_length)  # fmt: skip
        return LoadedModel(model=module, processor=processor)

    keys = (
        intern_vit.published_keys().prefixed("vision_model.", "encoders.image.")
        + PUBLISHED_KEYS.prefixed("mlp1.", "connectors.image.")
        + table.prefixed("language_model.", "backbone.")
    )
    seen = f"[tiles, {patches}, {tower.width}]"
    parts = (
        Part(slot="encoder", modality="image", name="InternViT", prefix="encoders.image",
             input=f"[tiles, 3, {side}, {side}]", output=seen, tokens=patches),
        Part(slot="connector", modality="image", name=f"{connector.factor} x {connector.factor} neighbours joined, MLP",
             prefix="connectors.image", input=seen, output=f"N of [tiles * {each}, {text.width}]", tokens=each),
        Part(slot="backbone", name=family.removesuffix("ForCausalLM"), prefix="backbone",
             input=f"[B, T, {text.width}]", output="[B, T, V]"),
    )  # fmt: skip
    return ModelSpec(build=build, keys=(keys,), parts=parts, assemble=assemble)


CONTEXT_FROM_END = 7  # added tokens of the releases: <img>, </img>, <IMG_CONTEXT>, and six marks of boxes behind it
BIG_VIT: dict[str, Any] = {"num_hidden_layers": 45, "image_size": 448}
SMALL_VIT: dict[str, Any] = {"num_hidden_layers": 24, "image_size": 448, "hidden_size": 1024, "num_attention_heads": 16,
                             "intermediate_size": 4096, "qkv_bias": True, "qk_normalization": False,
                             "norm_type": "layer_norm", "initializer_factor": 1.0}  # fmt: skip


def internlm2(width: int, depth: int, heads: int, kv_heads: int, ffn: int, **more: Any) -> dict[str, Any]:
    """The llm_config of a release; theta 1e6, of the 20B by its public config as recalled."""
    return {"model_type": "internlm2", "architectures": ["InternLM2ForCausalLM"], "vocab_size": 92553, "bias": False,
            "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "intermediate_size": ffn, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 32768, "rope_theta": 1000000, **more}  # fmt: skip


def variant(name: str, hub: str, parameters: int, vision: dict[str, Any], language: dict[str, Any]) -> Variant:
    """A released checkpoint."""
    config = {"model_type": "internvl_chat", "architectures": ["InternVLChatModel"], "downsample_ratio": 0.5,
              "ps_version": "v2", "select_layer": -1, "force_image_size": 448, "template": "internlm2-chat",
              "dynamic_image_size": True, "use_thumbnail": True, "min_dynamic_patch": 1, "max_dynamic_patch": 12,
              "vision_config": vision, "llm_config": language}  # fmt: skip
    return Variant(name=name, parameters=parameters, config=config,
                   repository=Repository(name=f"OpenGVLab/{hub}", license="MIT"))  # fmt: skip


LANGUAGE_2_8B = internlm2(4096, 32, 32, 8, 14336, rope_scaling={"type": "dynamic", "factor": 2.0})
