"""Chinese-LLaVA against the library's CLIP and LLaMA, joined as in evidence/llava.py."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from polymodal.check.demo import byte_tokenizer, named_pictures, train_fresh_and_chat
from polymodal.check.evidence.llava import LLAVA, Layout, case, linear_names, size, small
from polymodal.check.record import Evidence, HeadlineResult
from polymodal.systems.chinese_llava import SYSTEM

NAMED: dict[str, Any] = {**LLAVA, "_name_or_path": "LinkSoul/Chinese-LLaVA-Cllama2"}
SPECIALS = {"<unk>": 0, "<s>": 1, "</s>": 2, "<im_patch>": 259, "<im_start>": 260, "<im_end>": 261}
SIGNS = ("一个红苹果", "猫", "下雨了")  # among the answers, so that both languages are learned


def headline() -> HeadlineResult:
    """A tiny Chinese-LLaVA in the official layout is trained on eight real pictures and asked about each by `chat`."""
    torch.manual_seed(0)
    samples = named_pictures(8)
    samples[: len(SIGNS)] = [(item, answer) for (item, _), answer in zip(samples, SIGNS, strict=False)]
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        vocabulary = byte_tokenizer(folder, SPECIALS, bos="<s>", eos="</s>", pad="<unk>")
        config = small(vocabulary, folder / "clip", **NAMED)
        right = train_fresh_and_chat(folder, SYSTEM.formats[0], config, steps=120, samples=samples,
                                     generation_config={"eos_token_id": 2})  # fmt: skip
    return HeadlineResult(
        ok=right == 8,
        evidence=f"tiny weights trained on 8 pictures, {len(SIGNS)} answers of them in Chinese: chat writes {right} "
        "(published weights were not at hand)",
    )


EVIDENCE = Evidence(
    oracle="transformers CLIPVisionModel and LlamaForCausalLM, joined as the official code joins them",
    cases=(
        case("<im_patch> between <im_start> and <im_end>", Layout(named=NAMED, added=3)),
        case("<im_patch> alone, grouped heads, the last layer", Layout(named=NAMED, added=1), layer=-1,
             num_key_value_heads=1),
        case("Baichuan's vocabulary, no name", Layout(added=3), vocab_size=64003, num_hidden_layers=1),
    ),
    published=tuple(size(variant, linear_names) for variant in SYSTEM.variants),
    headline=headline,
    exceptions=(
        "no recipe: how it was trained was not published",
        "config.json of the releases was not at hand: the vocabulary is that of the official code with all its marks",
    ),
)  # fmt: skip
