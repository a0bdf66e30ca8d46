"""BayLing: LLaMA taught to translate interactively and to follow instructions in many languages; text only.

    text -> tokens -> LLaMA-7B or 13B (version 2: Llama 2, Llama 3) -> text

Papers: BayLing (arXiv 2306.10968), BayLing 2 (arXiv 2411.16300).
Traps: the first release holds differences to the ORIGINAL LLaMA weights (`*-diff`), to be added before use; the system
message ends in a line break and is followed by another; an answer ends in `</s>` and a line break; the Llama 3 version
has a format of its own; nothing in a config is BayLing's, so a folder is recognised by its name alone, or by
`system="bayling"`.  Rates of the recipe are not in the repository; they are the usual ones of its base.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.checkpoints.language_model import llama, llama_layout, named_after
from polymodal.data.chat_formats import llama3
from polymodal.data.template import TEXT_START, Special, Template, Turn, Words
from polymodal.systems import AdamW, Budget, Cosine, DataSource, LanguageModeling, Repository, Stage, System, Variant

TEMPLATE = Template(
    begin=(Special(name="<s>"), TEXT_START),
    turns={
        "system": Turn(after=(Words(text="\n"),)),
        "user": Turn(before=(Words(text="### Instruction:\n"),), after=(Words(text="\n"),)),
        "assistant": Turn(
            before=(Words(text="### Response:\n"),),
            after=(Special(name="</s>", loss_mask=True), Words(text="\n")),
            loss_mask=True,
        ),
    },
    ask=(Words(text="### Response:\n"),),
    default_system=(
        "I am an intelligent language assistant developed by the NLP Group of ICT/CAS.\nBelow is a dialog consisting of"
        " instructions and responses. Write a response that completes the request.\n"
    ),
)


LLAMA3_TEMPLATE = llama3("I am BayLing developed by the NLP Group of ICT/CAS.")


def template(config: Mapping[str, Any]) -> Template:
    return LLAMA3_TEMPLATE if config.get("vocab_size") == 128256 else TEMPLATE


def _release(name: str, parameters: int, hub: str, **config: Any) -> Variant:
    repository = Repository(name=hub, license="non-commercial; LLaMA's licence applies")
    return Variant(name=name, parameters=parameters, config=llama(**config), repository=repository,
                   difference_to="LLaMA" if name.endswith("-diff") else "")  # fmt: skip


SMALL = {"width": 4096, "depth": 32, "heads": 32, "ffn_width": 11008}
LARGE = {"width": 5120, "depth": 40, "heads": 40, "ffn_width": 13824}
ONE = {"vocab_size": 32000, "rms_norm_eps": 1e-6, "max_position_embeddings": 2048}
TWO = {**ONE, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096}
THREE = {**TWO, "vocab_size": 128256, "num_key_value_heads": 8, "ffn_width": 14336, "max_position_embeddings": 8192,
         "rope_theta": 500000.0}  # fmt: skip

SYSTEM = System(
    id="bayling",
    aliases=("BayLing", "百聆", "BayLing-13B"),
    year=2023,
    fusion=(),
    assembly="MultimodalLM",
    inputs=("text",),
    outputs=("text",),
    formats=(llama_layout(template, named_after("bayling")),),
    variants=(
        _release("13b", 13_015_864_320, "ICTNLP/bayling-13b-v1.1", **LARGE, **ONE),
        _release("7b-diff", 6_738_415_616, "ICTNLP/bayling-7b-diff", **SMALL, **ONE),
        _release("13b-diff", 13_015_864_320, "ICTNLP/bayling-13b-diff", **LARGE, **ONE),
        _release("2-7b", 6_738_415_616, "ICTNLP/bayling-2-7b", **SMALL, **TWO),
        _release("2-13b", 13_015_864_320, "ICTNLP/bayling-2-13b", **LARGE, **TWO),
        _release("2-8b", 8_030_261_248, "ICTNLP/bayling-2-llama-3-8b", **{**SMALL, **THREE}),
    ),
    headline="follows instructions in many languages and translates interactively",
    reference="arXiv 2306.10968",
    recipe=(
        # Recalled from the paper, not read again.
        Stage(
            name="instruct",
            data=(
                DataSource(name="interactive translations", kind="conversations", samples=160_000),
                DataSource(name="Alpaca and ShareGPT", kind="conversations"),
            ),
            objective=LanguageModeling(),
            train=("backbone",),
            optimizer=AdamW(lr=2e-5),
            schedule=Cosine(warmup_ratio=0.03),
            budget=Budget(batch=128, epochs=3, max_length=2048),
            start="parts",
        ),
    ),
)  # fmt: skip
