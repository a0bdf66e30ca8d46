"""InternVL 1.0 as published: InternViT-6B and QLLaMA against each other (InternVL-C, InternVL-G).

vision_config, qllama_config (a LLaMA's) -> tower, decoder with looking queries, two poolings -> QueryDualEncoder

Traps: texts begin with "summarize:" and end with `</s>`, 80 ids at most, padded with 0; the class InternVLModel answers
as InternVL-C unless its caller says otherwise; the looking layers are the even ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from polymodal.backbones import llama
from polymodal.connectors.attention_pool import AttentionPoolConfig
from polymodal.connectors.attention_pool import internvl_keys as pool_keys
from polymodal.data.normalise import IMAGENET_MEAN, IMAGENET_STD
from polymodal.data.pair_processor import PairProcessor
from polymodal.data.tokenizer import Tokenizer
from polymodal.data.transforms import ShorterSideCrop
from polymodal.encoders import intern_vit
from polymodal.errors import ConfigError
from polymodal.fusion.query_attention import QueryAttentionConfig
from polymodal.fusion.query_attention import internvl_keys as looking_keys
from polymodal.models.query_dual_encoder import QueryDualEncoder
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.linear import Linear
from polymodal.nn.norm import RMSNormConfig
from polymodal.pipelines.zero_shot import ZeroShot
from polymodal.systems import CheckpointFiles, ConfigMatch, LoadedModel, ModelSpec, Part, Repository, Variant
from polymodal.weights.keytable import KeyTable, rename
from polymodal.weights.operations import Squeeze, Transpose, Unsqueeze

PREFIX, LONGEST = "summarize:", 80
LLAMA: dict[str, Any] = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
                         "intermediate_size": 11_008, "vocab_size": 49_954, "rms_norm_eps": 1e-6,
                         "max_position_embeddings": 2048}  # fmt: skip
"""The multilingual LLaMA-7B in QLLaMA; its vocabulary is recalled."""
MATCHES = ConfigMatch(score=lambda config: "qllama_config" in config, model_types=("internvl",),
                      architectures=("InternVLModel", "InternVL_C", "InternVL_G"))  # fmt: skip


@dataclass(frozen=True)
class Summarised:
    """Sentence -> begin, "summarize:" with the sentence, end: at most 80 ids, the last ones cut."""

    tokenizer: Tokenizer
    first: int
    last: int

    def __call__(self, text: str) -> list[int]:
        return [self.first, *self.tokenizer.encode(PREFIX + text)[: LONGEST - 2], self.last]


def transform_of(side: int) -> ShorterSideCrop:
    """What is done to a picture that is classified."""
    return ShorterSideCrop(size=side, crop=side, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """An InternVLConfig dict -> the model; raises ConfigError for options that are not supported."""
    for name in ("use_backbone_lora", "use_qllama_lora"):
        if config.get(name):
            raise ConfigError(f"internvl: {name} {config[name]!r} is not supported; expected 0")
    vision: dict[str, Any] = {**intern_vit.DEFAULTS, **(config.get("vision_config") or {})}
    side: int = config.get("force_image_size") or vision["image_size"]
    tower = replace(intern_vit.parse_config({**vision, "image_size": side}), keep_class=True)
    language = {**LLAMA, **(config.get("qllama_config") or {}), "tie_word_embeddings": False}
    plain, queries = llama.parse_config(language), config.get("num_query_token", 96)
    heads, out = config.get("attn_pool_num_heads", 16), config.get("clip_embed_dim", 768)
    looking = QueryAttentionConfig(
        attention=AttentionConfig(width=plain.width, heads=plain.blocks[0].attention.heads, source_width=tower.width),
        queries=queries, norm=RMSNormConfig(eps=language["rms_norm_eps"]),
    )  # fmt: skip
    every = config.get("cross_attention_frequency", 2)
    blocks = tuple(replace(block, cross=looking, cross_at="middle") if index % every == 0 else block
                   for index, block in enumerate(plain.blocks))  # fmt: skip
    text = replace(plain, blocks=blocks)
    queried = "InternVL_G" in (config.get("architectures") or ())

    def build() -> QueryDualEncoder:
        connectors = {
            "image": AttentionPoolConfig(width=tower.width, heads=heads, out_width=out).build(),
            "queries": AttentionPoolConfig(width=text.width, heads=heads, out_width=out).build(),
            "text": Linear(text.width, out, bias=False), "match": Linear(text.width, 2),
        }  # fmt: skip
        return QueryDualEncoder(tower.build(), text.build(), connectors, queries, queried)

    def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
        assert isinstance(module, QueryDualEncoder)
        tokenizer = files.tokenizer()
        ids = Summarised(tokenizer, tokenizer.special("<s>"), tokenizer.special("</s>"))
        transform = transform_of(side)
        zero_shot = ZeroShot(module, transform, ids, pad=0)
        processor = PairProcessor(transform=transform, tokenizer=tokenizer, ids=ids, pad=0)
        return LoadedModel(model=module, processor=processor, score=zero_shot.score, embed=zero_shot.embed)

    width = f"[N, {out}]"
    parts = (
        Part(slot="encoder", modality="image", name="InternViT", prefix="encoders.image", tokens=tower.tokens,
             input=f"[N, 3, {side}, {side}]", output=width),
        Part(slot="encoder", name=f"QLLaMA with {queries} queries", prefix="encoders.text", input=f"[B, <= {LONGEST}]",
             output=width, tokens=1),
    )  # fmt: skip
    return ModelSpec(build=build, keys=(keys(looking_layers=text),), parts=parts, assemble=assemble)


def keys(looking_layers: Any) -> KeyTable:
    """The published names -> ours; looking_layers: the decoder's config."""
    whole = [rename(f"itm_head.{leaf}", f"connectors.match.{leaf}") for leaf in ("weight", "bias")]
    return (
        intern_vit.published_keys().prefixed("vision_model.", "encoders.image.")
        + (llama.hf_keys(looking_layers) + looking_keys()).prefixed("qllama.", "encoders.text.")
        + pool_keys().prefixed("clip_projector.", "connectors.image.")
        + pool_keys().prefixed("clip_projector2.", "connectors.queries.")
        + KeyTable((
            rename("query_tokens", "queries", Squeeze(0)), rename("logit_scale", "logit_scale", Unsqueeze(0)),
            rename("text_projection", "connectors.text.weight", Transpose()), *whole,
        ))
    )  # fmt: skip


def variant(name: str, architecture: str, parameters: int) -> Variant:
    """The released checkpoint, read as one of its classes."""
    config = {"model_type": "internvl", "architectures": [architecture], "qllama_config": LLAMA, "vision_config": {},
              "clip_embed_dim": 768, "attn_pool_num_heads": 16, "num_query_token": 96}  # fmt: skip
    return Variant(name=name, parameters=parameters, config=config, format=1,
                   repository=Repository(name="OpenGVLab/InternVL-14B-224px", license="MIT"))  # fmt: skip
