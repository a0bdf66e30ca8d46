"""How LinkSoul's Chinese-LLaVA and LLaSM write conversations, piece by piece, for either of their language models.

    Chinese-Llama-2-7b   <s>[INST] <<SYS>>\\nSYSTEM\\n<</SYS>>\\n\\nquestion [/INST] |answer </s><s>[INST] ...
    Baichuan-7B          SYSTEM|USER:|question|ASSISTANT:|answer</s>USER:| ...        | : a text of its own begins

Source: infer_tokenize.py of both repositories (LinkSoul-AI/Chinese-LLaVA, LinkSoul-AI/LLaSM).
Traps: a question of Chinese-Llama-2 ends in a space, which is a token, and its answer begins another text; Baichuan's
tokenizer adds no begin token, so neither does its format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.data.template import TEXT_START, Special, Template, Turn, Words

BAICHUAN_VOCABULARY = 64_000


def on_baichuan(config: Mapping[str, Any], added: int) -> bool:
    """Whether the vocabulary is Baichuan's, with up to `added` words of the system."""
    return BAICHUAN_VOCABULARY <= int(config.get("vocab_size") or 0) <= BAICHUAN_VOCABULARY + added


def chinese_llama_2(system: str) -> Template:
    """The format of Llama 2, whose questions and answers are texts of their own."""
    turns = {
        "system": Turn(
            before=(Special(name="<s>"), TEXT_START, Words(text="[INST] <<SYS>>\n")),
            after=(Words(text="\n<</SYS>>\n\n"),),
        ),
        "user": Turn(before=(Special(name="<s>"), TEXT_START, Words(text="[INST] ")), after=(Words(text=" [/INST] "),)),
        "assistant": Turn(
            before=(TEXT_START,),
            after=(Words(text=" ", loss_mask=True), Special(name="</s>", loss_mask=True)),
            loss_mask=True,
        ),
    }
    following = {("system", "user"): Turn(after=(Words(text=" [/INST] "),))}
    return Template(turns=turns, following=following, default_system=system)


def baichuan(system: str) -> Template:
    """System message and turns behind each other, roles and contents as texts of their own."""
    asked = (TEXT_START, Words(text="ASSISTANT:"), TEXT_START)
    turns = {
        "system": Turn(),
        "user": Turn(before=(TEXT_START, Words(text="USER:"), TEXT_START)),
        "assistant": Turn(before=asked, after=(Special(name="</s>", loss_mask=True),), loss_mask=True),
    }
    return Template(turns=turns, ask=asked, default_system=system)
