"""A language model by the `model_type` of its published config: for systems whose `text_config` may be any of them.

    text_config -> TextModel: config of a Decoder or an EncoderDecoder, spellings of its names on the hub

Traps: families differ in what a full pass without position ids counts: OPT counts real tokens, the others count
columns (`positions_ignore_padding`), padding included; generation counts real tokens in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from polymodal.backbones import (
    bloom,
    gemma,
    gpt_neox,
    internlm2,
    llama,
    mistral,
    mixtral,
    mpt,
    opt,
    persimmon,
    phi,
    qwen,
    stablelm,
    t5,
)
from polymodal.backbones.decoder import DecoderConfig
from polymodal.backbones.encoder_decoder import EncoderDecoderConfig
from polymodal.errors import ConfigError
from polymodal.weights.keytable import KeyTable


@dataclass(frozen=True, kw_only=True)
class TextModel:
    """`keys`: spellings of the names on disk, each a whole strict table."""

    config: DecoderConfig | EncoderDecoderConfig
    keys: tuple[KeyTable, ...]
    positions_ignore_padding: bool = True

    @property
    def seq2seq(self) -> bool:
        """Whether an encoder reads the prompt."""
        return isinstance(self.config, EncoderDecoderConfig)


_DECODERS: dict[str, tuple[Callable[[Mapping[str, Any]], DecoderConfig], Callable[[DecoderConfig], KeyTable]]] = {
    "bloom": (bloom.parse_config, bloom.hf_keys),
    "gemma": (gemma.parse_config, llama.hf_keys),
    "gpt_neox": (gpt_neox.parse_config, gpt_neox.hf_keys),
    "internlm2": (internlm2.parse_config, internlm2.hf_keys),
    "llama": (llama.parse_config, llama.hf_keys),
    "mistral": (mistral.parse_config, llama.hf_keys),
    "mixtral": (mixtral.parse_config, mixtral.hf_keys),
    "mosaic_gpt": (mpt.parse_config, partial(mpt.hf_keys, spelling="mosaic_gpt")),
    "mpt": (mpt.parse_config, mpt.hf_keys),
    "opt": (opt.parse_config, opt.hf_keys),
    "persimmon": (persimmon.parse_config, persimmon.hf_keys),
    "phi": (phi.parse_config, phi.hf_keys),
    "qwen2": (qwen.parse_config, llama.hf_keys),
    "stablelm": (stablelm.parse_config, stablelm.hf_keys),
}


def parse_config(config: Mapping[str, Any], default: str = "llama") -> TextModel:
    """The model a `text_config` describes, `default` when it names no type.  Raises ConfigError for other families."""
    kind = config.get("model_type", default)
    if kind == "t5":
        shape = t5.parse_config(config)
        return TextModel(config=shape, keys=t5.hf_keys(shape), positions_ignore_padding=False)
    if kind not in _DECODERS:
        known = ", ".join(sorted({*_DECODERS, "t5"}))
        raise ConfigError(f"text_config.model_type {kind!r} is not supported as a language model; known: {known}")
    parse, keys_of = _DECODERS[kind]
    decoder = parse(config)
    keys: tuple[KeyTable, ...] = (keys_of(decoder),)
    if kind == "bloom":  # the first releases are files of the bare model
        keys += (bloom.hf_keys(decoder, prefix=""),)
    return TextModel(config=decoder, keys=keys, positions_ignore_padding=kind != "opt")


def decoder_of(config: Mapping[str, Any], default: str = "llama") -> tuple[DecoderConfig, KeyTable]:
    """The decoder a `text_config` describes and the table of its names; ConfigError for an encoder-decoder."""
    found = parse_config(config, default)
    if not isinstance(found.config, DecoderConfig):
        raise ConfigError(f"text_config.model_type {config.get('model_type')!r} is no decoder, which this system needs")
    return found.config, found.keys[0]
