"""LWM, the Large World Model: books and videos of a million tokens, read and written by LLaMA-2-7B.

Paper: World Model on Million-Length Video And Language With Blockwise RingAttention (arXiv 2402.08268).

    text -> LLaMA-2-7B with a base of rope of 10 to 50 million                           (LWM-Text, LlamaForCausalLM)
    picture | frames -> 256 x 256 -> VQGAN -> 256 codes and a mark each -> second table  (fusion type D)
    hidden -> head of text | head of codes -> words | codes -> VQGAN -> pixels           (systems/lwm/painting.py)

Trained over processes that hold a part of the sequence each (nn/ring_attention.py).
Traps: ids of the two tables overlap, a mask tells them apart (models/two_table_lm.py); the vision models exist as Jax
parameters alone, with kernels the other way round and rope on neighbouring pairs (flax_names.py); nothing in a config
of LWM-Text is LWM's, so a folder is recognised by its name, or by `system="lwm"`.
"""

from __future__ import annotations

from typing import Any

from polymodal.checkpoints.language_model import llama, llama_layout, named_after
from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.lwm.checkpoint import parse_config
from polymodal.systems.lwm.prompts import template
from polymodal.systems.lwm.recipe import RECIPE

LICENSE = "LLaMA 2 community; code Apache-2.0"
VISION, TEXT = 0, 1


def _vision(name: str, length: int, hub: str) -> Variant:
    config: dict[str, Any] = {"model_type": "video_llama", "theta": 5e7, "max_sequence_length": length}
    repository = Repository(name=f"LargeWorldModel/{hub}", license=LICENSE)
    return Variant(name=name, parameters=6_953_866_307, config=config, repository=repository, format=VISION)


def _text(name: str, length: int, theta: float) -> Variant:
    config = llama(4096, 32, 32, 11008, vocab_size=32000, rms_norm_eps=1e-6, rope_theta=theta,
                   max_position_embeddings=length)  # fmt: skip
    repository = Repository(name=f"LargeWorldModel/LWM-Text-{name}", license=LICENSE)
    return Variant(name=f"text-{name.lower()}", parameters=6_738_415_616, config=config, repository=repository,
                   format=TEXT)  # fmt: skip


_LENGTHS = {"128K": (131_072, 1e7), "256K": (262_144, 1e7), "512K": (524_288, 2.5e7), "1M": (1_048_576, 5e7)}

SYSTEM = System(
    id="lwm",
    aliases=("LWM", "Large World Model", "LWM-Text", "LWM-Chat"),
    year=2024,
    fusion=("D",),
    assembly="TwoTableLM",
    inputs=("text", "image", "video"),
    outputs=("text", "image", "video"),
    headline="finds what it is asked for anywhere in a context of a million tokens, and writes pictures and videos",
    reference="arXiv 2402.08268",
    formats=(
        CheckpointFormat(name="Jax video_llama, arrays by flattened names", parse_config=parse_config,
                         matches=hf("video_llama")),
        llama_layout(lambda config: template(), named_after("lwm-text")),
    ),
    variants=(
        *(_vision(name, length, hub) for name, length, hub in
          (("1m", 1_048_576, "LWM-1M-Jax"), ("128k", 131_072, "LWM-128K-Jax"), ("32k", 32_768, "LWM-32K-Jax"))),
        *(_text(f"{chat}{name}", *size) for chat in ("Chat-", "") for name, size in _LENGTHS.items()),
    ),
    recipe=RECIPE,
)  # fmt: skip
