"""Chinese-Llama-2 against transformers; every option a LlamaConfig has is in language_model.py."""

from __future__ import annotations

from polymodal.check.evidence._text import LLAMA, case, headline, sizes, training_checks
from polymodal.check.record import Evidence
from polymodal.systems.chinese_llama_2 import SYSTEM

SMALL = {**LLAMA, "model_type": "llama", "max_position_embeddings": 1024}
EVIDENCE = Evidence(
    oracle="transformers LlamaForCausalLM",
    cases=(
        case("plain", "Llama", "chinese-llama-2"),
        case("one layer, one key head, tied", "Llama", "chinese-llama-2", num_hidden_layers=1, num_key_value_heads=1,
             tie_word_embeddings=True),
    ),
    published=sizes(SYSTEM),
    training_checks=training_checks(SYSTEM, SMALL),
    headline=lambda: headline(SYSTEM, SMALL, ["<s>", "</s>"], steps=160),
)  # fmt: skip
