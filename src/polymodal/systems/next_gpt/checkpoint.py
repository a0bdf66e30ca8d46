"""Published checkpoints of NExT-GPT: config to model, names of tensors, processor."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import nn

from polymodal.checkpoints import imagebind_llama
from polymodal.data.imagebind_formats import NExTGPTFormat
from polymodal.data.processor import Processor
from polymodal.data.template import Special
from polymodal.generators.query_projector import QueryProjectorConfig, official_keys
from polymodal.models.signal_token_lm import SignalTokenLM, SignalTokens
from polymodal.systems import (
    CheckpointFiles,
    LoadedModel,
    ModelSpec,
    Part,
)
from polymodal.weights.keytable import KeyTable

SENSES = ("image", "audio")


PLACEHOLDERS = {"image": -1, "audio": -2, "video": -3}


"""Written where a vector goes; no token of the vocabulary stands there."""


FILES = {"image": "gen_text_hidden_fcs", "video": "gen_text_hidden_fcs_video", "audio": "gen_text_hidden_fcs_audio"}


OUT = {"image": (77, 768), "video": (77, 1024), "audio": (1, 512)}


"""Queries and width of each generator's condition."""


GENERATORS = {"image": "Stable Diffusion", "video": "zeroscope", "audio": "AudioLDM"}


DEFAULTS = {"num_gen_img_tokens": 4, "num_gen_video_tokens": 24, "num_gen_audio_tokens": 8, "num_clip_tokens": 77,
            "text_fc_to_img_mode": "transformer", "text_fc_to_video_mode": "transformer",
            "text_fc_to_audio_mode": "transformer"}  # fmt: skip


STOP = "###"


"""The published code looks for its tokens (835, or 2277 and 29937); here the text ends an answer."""


def signals_of(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Ids of the signal tokens: the last of the vocabulary, behind <Img> and </Img>: pictures, videos, sounds."""
    names = [f"num_gen_{name}_tokens" for name in ("img", "video", "audio")]
    counts = [int(config.get(name, DEFAULTS[name])) for name in names]
    start = config["llama"].get("vocab_size", 32000) - sum(counts)
    found = {}
    for name, count in zip(("image", "video", "audio"), counts, strict=True):
        found[name] = tuple(range(start, start + count))
        start += count
    return found


def projectors_of(config: Mapping[str, Any], width: int) -> dict[str, QueryProjectorConfig]:
    """Raises ConfigError for projectors that are no transformers."""
    imagebind_llama.checked(config, set(DEFAULTS))
    for name in ("img", "video", "audio"):
        imagebind_llama.expected(config, f"text_fc_to_{name}_mode", "transformer")
    shapes = OUT | {name: (config.get("num_clip_tokens", 77), OUT[name][1]) for name in ("image", "video")}
    return {name: QueryProjectorConfig(in_width=width, out_width=out, queries=queries)
            for name, (queries, out) in shapes.items()}  # fmt: skip


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """imagebind, llama, lora_r, lora_alpha, and the official names of the output side.  Raises ConfigError."""
    backbone, _ = imagebind_llama.backbone_of(config)
    width = config["llama"].get("hidden_size", 4096)
    projectors, signals = projectors_of(config, width), signals_of(config)

    def build() -> SignalTokenLM:
        return SignalTokenLM(
            imagebind_llama.encoders_of(config, SENSES),
            imagebind_llama.connectors_of(config, SENSES, width),
            backbone(),
            PLACEHOLDERS,
            imagebind_llama.inputs_of(SENSES),
            {name: each.build() for name, each in projectors.items()},
            SignalTokens(ids=signals),
        )

    more = KeyTable()
    for name, file in FILES.items():
        more += official_keys().prefixed(f"{file}.0.", f"projectors.{name}.")
    return ModelSpec(build=build, keys=imagebind_llama.keys_of(config, SENSES, more), parts=drawing(config, projectors),
                  assemble=partial(assemble, signals=signals))  # fmt: skip


def assemble(module: nn.Module, files: CheckpointFiles, signals: Mapping[str, tuple[int, ...]]) -> LoadedModel:
    """Conversations from a folder whose tokenizer ends in the signal tokens.  Raises WeightsError for another."""
    tokenizer = files.tokenizer()
    names = imagebind_llama.signal_names(tokenizer, signals)
    processor = Processor(
        tokenizer=tokenizer, template=NExTGPTFormat(begin=imagebind_llama.begin_of(tokenizer), signals=names),
        modalities=imagebind_llama.modalities(PLACEHOLDERS, (Special(name="<Img>"),), (Special(name="</Img>"),)),
    )  # fmt: skip
    return LoadedModel(model=module, processor=processor, stop=(STOP,))


def drawing(config: Mapping[str, Any], projectors: Mapping[str, QueryProjectorConfig]) -> tuple[Part, ...]:
    """The boxes of `show`; the generators are pipelines of the caller's (`generators/diffusion.py`)."""
    return (
        *imagebind_llama.parts_of(config, SENSES),
        *(Part(slot="output connector", modality=name, name="query transformer", prefix=f"projectors.{name}",
               input=f"[k, n, {each.in_width}]", output=f"[k, {each.queries}, {each.out_width}]")
          for name, each in projectors.items()),
        *(Part(slot="generator", modality=name, name=GENERATORS[name], prefix="",
               input=f"[k, {each.queries}, {each.out_width}]", output=name)
          for name, each in projectors.items()),
    )  # fmt: skip


def infer(shapes: Mapping[str, Any]) -> Mapping[str, Any] | None:
    found = imagebind_llama.infer(shapes) if any(name.startswith("gen_text_hidden_fcs") for name in shapes) else None
    return None if found is None else {"model_type": "next-gpt", **found}


LLAMA_7B = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
            "intermediate_size": 11008, "vocab_size": 32038, "rms_norm_eps": 1e-6}  # fmt: skip
