"""TigerBot against transformers: BLOOM with every option of its config, and the Llama releases."""

from __future__ import annotations

from polymodal.check.evidence._text import BLOOM, LLAMA, case, headline, respelled, sizes, training_checks
from polymodal.check.record import Evidence
from polymodal.systems.tigerbot import SYSTEM

SMALL = {**BLOOM, "model_type": "bloom"}
EVIDENCE = Evidence(
    oracle="transformers BloomForCausalLM and LlamaForCausalLM",
    cases=(
        case("BLOOM", "Bloom"),
        case("BLOOM, odd heads, one layer, untied", "Bloom", n_head=3, hidden_size=33, n_layer=1,
             tie_word_embeddings=False),
        case("BLOOM, residual behind the norm", "Bloom", apply_residual_connection_post_layernorm=True, n_head=6,
             layer_norm_epsilon=1e-3),
        case("BLOOM, slow but exact", "Bloom", slow_but_exact=True, pretraining_tp=2),
        respelled(case("BLOOM, old config", "Bloom"), {"hidden_size": None, "n_embed": 48, "n_head": None,
                                                       "num_attention_heads": 4}),
        case("Llama release", "Llama", vocab_size=60515, num_key_value_heads=2),
        case("Llama folder told to be TigerBot's", "Llama", "tigerbot"),
    ),
    published=sizes(SYSTEM),
    training_checks=training_checks(SYSTEM, SMALL),
    headline=lambda: headline(SYSTEM, SMALL, ["<s>", "</s>"], steps=160),
    layouts={
        SYSTEM.formats[1].name: lambda: headline(
            SYSTEM, {**LLAMA, "model_type": "llama", "max_position_embeddings": 1024}, ["<s>", "</s>"], layout=1
        )
    },
)  # fmt: skip
