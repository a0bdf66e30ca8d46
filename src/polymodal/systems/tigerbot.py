"""TigerBot: a Chinese and English assistant, first on BLOOM, then on Llama 2; text only.

    text -> tokens -> BLOOM-7B (version 1, 2; 180B: BLOOM-176B) or Llama 2 with 60 thousand words -> text

Paper: TigerBot (arXiv 2312.08688).
Traps: one name on the hub has held both architectures; nothing is put before the first instruction, not even the
beginning token; answers of earlier turns have no end token; files of the BLOOM versions carry a copy of the embedding
as head; vocabularies of the Llama versions differ by release.  Rate and batch of the recipe are those of the
repository's commands; the lengths are not published and follow from the sizes of the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.checkpoints.language_model import llama_layout, named_after, text_model_spec
from polymodal.data.template import Special, Template, Turn, Words
from polymodal.systems import (
    AdamW,
    Budget,
    CheckpointFormat,
    DataSource,
    LanguageModeling,
    Repository,
    Stage,
    System,
    Variant,
    hf,
)

RESPONSE = Words(text="\n\n### Response:\n")
TEMPLATE = Template(
    turns={
        "user": Turn(before=(Words(text="\n\n### Instruction:\n"),)),
        "assistant": Turn(before=(RESPONSE,), loss_mask=True),
    },
    ask=(RESPONSE,),
    end=(Special(name="</s>", loss_mask=True),),
)
VOCABULARIES = frozenset({60512, 60515, 60928, 65110, 65024})  # of the Llama releases, all extended by Chinese words


def score(config: Mapping[str, Any]) -> int:
    """A vocabulary of one of the releases is TigerBot's among the systems of the Llama layout, or its name."""
    return 3 if config.get("vocab_size") in VOCABULARIES else named_after("tigerbot")(config)


def bloom(width: int, depth: int, heads: int) -> dict[str, Any]:
    return {"model_type": "bloom", "architectures": ["BloomForCausalLM"], "hidden_size": width, "n_layer": depth,
            "n_head": heads, "vocab_size": 250880}  # fmt: skip


def _release(name: str, parameters: int, hub: str, config: dict[str, Any]) -> Variant:
    base = "BLOOM RAIL" if config["model_type"] == "bloom" else "Llama 2 community"
    return Variant(name=name, parameters=parameters, config=config,
                   repository=Repository(name=f"TigerResearch/{hub}", license=f"Apache-2.0; {base}"))  # fmt: skip


SYSTEM = System(
    id="tigerbot",
    aliases=("TigerBot", "TigerBot-7B", "TigerBot-180B"),
    year=2023,
    fusion=(),
    assembly="MultimodalLM",
    inputs=("text",),
    outputs=("text",),
    formats=(
        CheckpointFormat(name="transformers BloomForCausalLM", matches=hf("bloom", "BloomForCausalLM"),
               parse_config=lambda config: text_model_spec(config, TEMPLATE)),
        llama_layout(lambda config: TEMPLATE, score),
    ),
    variants=(
        _release("7b-sft", 7_069_016_064, "tigerbot-7b-sft-v1", bloom(4096, 30, 32)),
        _release("180b", 176_247_271_424, "tigerbot-180b-research", bloom(14336, 70, 112)),
    ),
    headline="follows Chinese and English instructions",
    reference="arXiv 2312.08688",
    recipe=(
        Stage(
            name="pretrain",
            data=(DataSource(name="100 GB of Chinese, English and code", kind="text", tokens=26_000_000_000),),
            objective=LanguageModeling(),
            train=("backbone",),
            start="parts",
            note="the published part of 2 TB; its rates were not published",
        ),
        Stage(
            name="instruct",
            data=(DataSource(name="instructions of 120 kinds", kind="conversations", samples=1_000_000),),
            objective=LanguageModeling(),
            train=("backbone",),
            optimizer=AdamW(lr=1e-5),
            budget=Budget(epochs=5, precision="bfloat16"),
            start="pretrain",
        ),
    ),
)  # fmt: skip
