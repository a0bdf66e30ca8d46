"""Language models by themselves against transformers: every option a LlamaConfig has; Mistral and Qwen2."""

from __future__ import annotations

from polymodal.check.evidence._text import LLAMA, case, headline, respelled, sizes, training_checks
from polymodal.check.record import Evidence
from polymodal.systems.language_model import SYSTEM

LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
LONG = {"rope_type": "longrope", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 12,
        "short_factor": [1.0 + 0.1 * i for i in range(6)], "long_factor": [2.0 + i for i in range(6)]}  # fmt: skip

SMALL = {**LLAMA, "model_type": "llama", "max_position_embeddings": 1024}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)

EVIDENCE = Evidence(
    oracle="transformers LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM",
    cases=(
        case("plain", "Llama"),
        case("one layer, one key head, tied", "Llama", num_hidden_layers=1, num_key_value_heads=1,
             tie_word_embeddings=True),
        case("biases, gelu, heads of their own size", "Llama", attention_bias=True, mlp_bias=True, hidden_act="gelu",
             head_dim=20, num_key_value_heads=2, rms_norm_eps=1e-3),
        case("Mistral with a window", "Mistral", sliding_window=8, num_key_value_heads=2),
        case("Qwen2", "Qwen2", num_key_value_heads=2, tie_word_embeddings=True),
        case("odd width", "Llama", hidden_size=42, num_attention_heads=3, intermediate_size=33, pretraining_tp=3),
        case("yarn", "Llama", rope_parameters={"rope_type": "yarn", "rope_theta": 50.0, "factor": 4.0,
                                               "original_max_position_embeddings": 16}),
        case("llama3 rope", "Llama", rope_parameters=LLAMA3),
        case("linear rope", "Llama", rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}),
        case("longrope", "Llama", rows=False, rope_parameters=LONG),
        case("dynamic rope", "Llama", rows=False, steps=False, max_position_embeddings=9,
             rope_parameters={"rope_type": "dynamic", "rope_theta": 1e3, "factor": 2.0}),
        case("longer than its context", "Llama", max_position_embeddings=20),
        respelled(case("config of an older library", "Llama", rope_parameters={"rope_type": "default",
                                                                               "rope_theta": 777.0}),
                  {"rope_parameters": None, "rope_theta": 777.0, "head_dim": None, "num_key_value_heads": None}),
    ),
    published=sizes(SYSTEM),
    training_checks=training_checks(SYSTEM, SMALL),
    headline=lambda: headline(SYSTEM, SMALL, ["<s>", "</s>"], chat_template=TEMPLATE),
)  # fmt: skip
