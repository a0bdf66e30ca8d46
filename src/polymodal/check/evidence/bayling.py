"""BayLing against transformers: the LLaMA sizes of its releases."""

from __future__ import annotations

from polymodal.check.evidence._text import LLAMA, case, headline, sizes, training_checks
from polymodal.check.record import Evidence
from polymodal.systems.bayling import SYSTEM

SMALL = {**LLAMA, "model_type": "llama", "max_position_embeddings": 1024}
EVIDENCE = Evidence(
    oracle="transformers LlamaForCausalLM",
    cases=(
        case("LLaMA 1", "Llama", "bayling", vocab_size=32000, rms_norm_eps=1e-6),
        case("grouped heads", "Llama", "bayling", num_key_value_heads=2, rope_parameters={"rope_type": "default",
                                                                                          "rope_theta": 500000.0}),
        case("one layer, tied", "Llama", "bayling", num_hidden_layers=1, tie_word_embeddings=True),
    ),
    published=sizes(SYSTEM),
    training_checks=training_checks(SYSTEM, SMALL),
    headline=lambda: headline(SYSTEM, SMALL, ["<s>", "</s>"]),
)  # fmt: skip
