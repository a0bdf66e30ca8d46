"""Texts as vectors, and back (Optimus, arXiv 2004.04092): BERT reads a sentence, GPT-2 writes one from the vector.

    input_ids [B, T] -> BERT -> pooled [B, D] -> linear -> mean, logarithm of the variance -> latent [B, Z] * scale
    latent -> linear -> a key that is also the value, in front of all tokens, in every block
           -> linear -> added to the embedding of every token                      -> GPT-2 -> logits

Traps: positions of the written tokens begin with 1, behind the latent's own; the mean alone is taken (CoDi).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones import encoder as bert
from polymodal.backbones.decoder import DecoderBlockConfig, DecoderConfig, LearnedPositionsConfig
from polymodal.backbones.encoder import TextEncoderConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.cache import KVCache
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable, Row, drop, pair, rename, split
from polymodal.weights.operations import Transpose


@dataclass(frozen=True, kw_only=True)
class TextLatentsConfig:
    """latent: width of the vector.  scale: latents are multiplied by it, so that their deviation is about 1."""

    encoder: TextEncoderConfig
    decoder: DecoderConfig
    latent: int
    scale: float = 1.0

    def build(self) -> TextLatents:
        return TextLatents(self)


class TextLatents(nn.Module):
    """See the module docstring."""

    def __init__(self, config: TextLatentsConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = config.encoder.build(), config.decoder.build()
        self.to_latent = nn.Linear(config.encoder.width, 2 * config.latent, bias=False)
        width = config.decoder.width
        self.memory = nn.Linear(config.latent, width * config.decoder.depth, bias=False)
        self.offset = nn.Linear(config.latent, width, bias=False)

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """`[B, T] -> [B, Z]`, scaled."""
        pooled = self.encoder.pool(self.encoder(input_ids, attention_mask))
        return self.to_latent(pooled).chunk(2, -1)[0] * self.config.scale

    def begin(self, latents: Tensor, most: int) -> KVCache:
        """A cache of up to `most` tokens that holds what the blocks see of scaled latents [B, Z]."""
        if latents.shape[-1] != self.config.latent:
            raise ConfigError(f"text latents: expected [B, {self.config.latent}], found {list(latents.shape)}")
        decoder = self.decoder
        cache = decoder.new_cache(len(latents), most + 1)
        heads, size = decoder.config.blocks[0].attention.heads, decoder.config.blocks[0].attention.size
        seen = self.memory(latents / self.config.scale).reshape(len(latents), len(decoder.blocks), heads, 1, size)
        for index in range(len(decoder.blocks)):
            cache.layer(index).update(seen[:, index], seen[:, index])
        cache.advance(1)
        return cache

    def logits(self, latents: Tensor, input_ids: Tensor, cache: KVCache | None = None) -> Tensor:
        """Logits [B, T, V] of the next tokens; cache: of `begin`, with the tokens before these."""
        cache = self.begin(latents, input_ids.shape[1]) if cache is None else cache
        places = cache.length + torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        x = self.decoder.embed(input_ids) + self.offset(latents / self.config.scale)[:, None]
        return self.decoder.head(self.decoder(x, places, cache=cache))

    def forward(self, latents: Tensor, input_ids: Tensor) -> Tensor:
        """Same as `logits`."""
        return self.logits(latents, input_ids)


def parse_config(config: Mapping[str, Any], scale: float, tied: bool = True) -> TextLatentsConfig:
    """`latent_size`, and `encoder` and `decoder` as BERT's and GPT-2's configs; tied: the head repeats the tokens."""
    given = config["decoder"]
    width, norm = given.get("n_embd", 768), LayerNormConfig(eps=given.get("layer_norm_epsilon", 1e-5))
    length = given.get("n_positions", 1024)
    block = DecoderBlockConfig(
        attention=AttentionConfig(width=width, heads=given.get("n_head", 12), qkv_bias=True, out_bias=True),
        mlp=MLPConfig(width=width, ffn_width=4 * width, activation="gelu_tanh"), norm=norm,
    )  # fmt: skip
    decoder = DecoderConfig(
        vocab_size=given.get("vocab_size", 50260), width=width, blocks=(block,) * given.get("n_layer", 12), norm=norm,
        tied=tied, positions=LearnedPositionsConfig(count=length), max_length=length,
    )  # fmt: skip
    encoder = bert.parse_config(config["encoder"], pooler=True)
    return TextLatentsConfig(encoder=encoder, decoder=decoder, latent=config["latent_size"], scale=scale)


def official_keys(tied: bool = True) -> KeyTable:
    """`encoder.*` and `decoder.*` of the published file -> TextLatents."""
    words, lm_head = "decoder.transformer.wte.weight", "decoder.lm_head.weight"
    head = drop(lm_head, copy_of=words) if tied else rename(lm_head, "decoder.lm_head.weight")
    rows: list[Row] = [
        rename("encoder.linear.weight", "to_latent.weight"), rename(words, "decoder.embed_tokens.weight"),
        rename("decoder.transformer.linear.weight", "memory.weight"),
        rename("decoder.transformer.linear_emb.weight", "offset.weight"),
        rename("decoder.transformer.wpe.weight", "decoder.positions.weight"), *pair("decoder.transformer.ln_f",
        "decoder.norm"), head, drop("decoder.transformer.h.{}.attn.bias"),
    ]  # fmt: skip
    block, ours = "decoder.transformer.h.{}", "decoder.blocks.{}"
    turned = Transpose(0, 1)
    qkv = [f"{ours}.attn.{name}_proj" for name in "qkv"]
    rows.append(split(f"{block}.attn.c_attn.weight", [f"{each}.weight" for each in qkv], turned))
    rows.append(split(f"{block}.attn.c_attn.bias", [f"{each}.bias" for each in qkv]))
    for theirs, name in (("attn.c_proj", "attn.o_proj"), ("mlp.c_fc", "mlp.up_proj"), ("mlp.c_proj", "mlp.down_proj")):
        rows += pair(f"{block}.{theirs}", f"{ours}.{name}", turned)
    rows += [*pair(f"{block}.ln_1", f"{ours}.attn_norm"), *pair(f"{block}.ln_2", f"{ours}.mlp_norm")]
    return KeyTable(tuple(rows)) + (bert.BODY_KEYS + bert.POOLER_KEYS).prefixed("encoder.", "encoder.")
