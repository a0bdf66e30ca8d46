"""Language models by themselves against transformers: every option a LlamaConfig has; Mistral and Qwen2."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from polymodal.check.evidence._text import LLAMA, case, headline, respelled, sizes, training_checks
from polymodal.check.record import Evidence
from polymodal.systems.language_model import SYSTEM
from polymodal.weights.read import read

LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
LONG = {"rope_type": "longrope", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 12,
        "short_factor": [1.0 + 0.1 * i for i in range(6)], "long_factor": [2.0 + i for i in range(6)]}  # fmt: skip

SMALL = {**LLAMA, "model_type": "llama", "max_position_embeddings": 1024}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}"
    "{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)

PAIR = "\u0100\u0100"  # two zero bytes, which no text holds: such a file has one merge at least


def as_gguf(folder: Path) -> Path:
    """The trained folder as one file of llama.cpp: sizes, tokenizer, chat template and tensors, as its converter makes
    them; rows of queries and keys are neighbours there where they are halves here."""
    from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    heads, layers = config["num_attention_heads"], config["num_hidden_layers"]
    path = folder / "model.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_block_count(layers)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads", heads))
    writer.add_rope_freq_base(config.get("rope_theta", 1e4))
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps", 1e-6))
    writer.add_vocab_size(config["vocab_size"])
    words = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    tokens = sorted(words, key=lambda word: int(words[word]))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in ("<s>", "</s>") else 1 for token in tokens])
    writer.add_token_merges([" ".join(PAIR)])
    writer.add_bos_token_id(words["<s>"])
    writer.add_eos_token_id(words["</s>"])
    writer.add_chat_template((folder / "chat_template.jinja").read_text(encoding="utf-8"))
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, layers)
    for name, tensor in read(folder / "model.safetensors", "safetensors").items():
        values = tensor.float().numpy()
        if ".q_proj." in name or ".k_proj." in name:
            halves = values.reshape(heads, 2, -1, values.shape[-1])
            values = halves.swapaxes(1, 2).reshape(values.shape)
        writer.add_tensor(names.get_name(name, (".weight", ".bias")) or name, np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


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
    layouts={
        SYSTEM.formats[1].name: lambda: headline(
            SYSTEM, SMALL, ["<s>", "</s>", PAIR], chat_template=TEMPLATE, converted=as_gguf
        )
    },
)  # fmt: skip
