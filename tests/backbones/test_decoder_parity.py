"""Each preset family against `transformers`: tiny random models, ALL parameters random, float32, error <= 1e-4."""

from typing import Any

import pytest
import torch
from decoder_parity import TOLERANCE, build_like, logits, stepwise, tiny

transformers = pytest.importorskip("transformers")

from polymodal.backbones import gemma, llama, mistral, mixtral, qwen  # noqa: E402
from polymodal.check import library  # noqa: E402
from polymodal.errors import ConfigError  # noqa: E402

BASE: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 2.0}

CASES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "llama": (llama, "Llama", {"num_key_value_heads": 6, "tie_word_embeddings": False}),
    "llama_gqa_tied": (llama, "Llama", {"tie_word_embeddings": True}),
    "llama_bias": (llama, "Llama", {"attention_bias": True, "tie_word_embeddings": False}),
    "llama_head_dim": (llama, "Llama", {"head_dim": 16, "tie_word_embeddings": False}),
    "llama_linear": (
        llama,
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 3.0}},
    ),
    "llama_dynamic_inside": (llama, "Llama", {"rope_parameters": DYNAMIC}),
    "llama_dynamic_beyond": (llama, "Llama", {"rope_parameters": DYNAMIC, "max_position_embeddings": 10}),
    "llama_yarn": (llama, "Llama", {"rope_parameters": YARN}),
    "llama_yarn_factor": (
        llama,
        "Llama",
        {"rope_parameters": {**YARN, "attention_factor": 1.3, "beta_fast": 16.0, "beta_slow": 2.0}},
    ),
    "llama_llama3": (llama, "Llama", {"rope_parameters": LLAMA3}),
    "qwen2": (qwen, "Qwen2", {"tie_word_embeddings": False}),
    "qwen2_tied": (qwen, "Qwen2", {"tie_word_embeddings": True}),
    "qwen2_window": (
        qwen,
        "Qwen2",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "mistral": (mistral, "Mistral", {"sliding_window": None}),
    "mixtral": (mixtral, "Mixtral", {"num_local_experts": 5}),
    "mixtral_one_expert_window": (
        mixtral,
        "Mixtral",
        {"num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 4, "tie_word_embeddings": True},
    ),
    "mistral_window": (mistral, "Mistral", {"sliding_window": 5}),
    "mistral_head_dim": (mistral, "Mistral", {"sliding_window": None, "head_dim": 12}),
    "gemma": (gemma, "Gemma", {"head_dim": 16}),
    "llama_mlp": (llama, "Llama", {"mlp_bias": True, "hidden_act": "gelu_new"}),
    "qwen2_layer_types": (
        qwen,
        "Qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "mistral_relu": (mistral, "Mistral", {"sliding_window": 3, "hidden_act": "relu"}),
    "gemma_untied": (gemma, "Gemma", {"head_dim": 8, "tie_word_embeddings": False, "hidden_act": "gelu"}),
    "gemma_silu_bias": (gemma, "Gemma", {"head_dim": 8, "attention_bias": True, "hidden_act": "silu"}),
    "gemma_one_key_head": (gemma, "Gemma", {"head_dim": 8, "num_key_value_heads": 1}),
}


def pair(name: str) -> tuple[Any, Any, torch.Tensor]:
    family, prefix, changes = CASES[name]
    hf_config = getattr(transformers, f"{prefix}Config")(**{**BASE, **changes})
    theirs = tiny(getattr(transformers, f"{prefix}ForCausalLM"), hf_config)
    config = family.parse_config(hf_config.to_dict())
    ours = build_like(config, family.hf_keys(config), library.names_on_disk(theirs))
    ids = torch.randint(3, 97, (2, 21), generator=torch.Generator().manual_seed(1))
    return ours, theirs, ids


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_equals_transformers(name: str) -> None:
    ours, theirs, ids = pair(name)
    expected = theirs(ids).logits
    found = logits(ours, ids)
    assert expected.std() > 0.3
    assert (found - expected).abs().max() <= TOLERANCE
    if name == "llama_dynamic_beyond":  # longer than trained: a cached step has other frequencies, by design
        return
    assert (stepwise(ours, ids, [9, 4, *[1] * 8]) - expected).abs().max() <= TOLERANCE


@pytest.mark.parametrize("name", ["llama_gqa_tied", "qwen2", "mistral_window", "gemma", "llama_yarn"])
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padded_batch_equals_single_rows_and_transformers(name: str, side: str) -> None:
    ours, theirs, ids = pair(name)
    lengths = (21, 13)
    mask = torch.zeros_like(ids)
    rows = [ids[i, :n][None] for i, n in enumerate(lengths)]
    padded = torch.zeros_like(ids)
    for i, n in enumerate(lengths):
        where = slice(0, n) if side == "right" else slice(21 - n, 21)
        mask[i, where], padded[i, where] = 1, rows[i][0]
    full = logits(ours, padded, mask)
    steps = stepwise(ours, padded, [6, 10, *[1] * 5], mask)
    for i, row in enumerate(rows):
        single, real = theirs(row).logits[0], mask[i].bool()
        assert (full[i, real] - single).abs().max() <= TOLERANCE
        assert (steps[i, real] - single).abs().max() <= TOLERANCE
    assert full.isfinite().all()


@pytest.mark.parametrize("name", ["llama_gqa_tied", "gemma", "qwen2"])
@torch.no_grad()
def test_greedy_text_equals_transformers(name: str) -> None:
    ours, theirs, ids = pair(name)
    prompt = ids[:1, :7]
    expected = theirs.generate(prompt, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    cache = ours.new_cache(1, 32)
    hidden = ours(ours.embed(prompt), torch.arange(7)[None], cache=cache)
    text = prompt
    for step in range(12):
        token = ours.head(hidden[:, -1:]).argmax(-1)
        text = torch.cat((text, token), 1)
        hidden = ours(ours.embed(token), torch.tensor([[7 + step]]), cache=cache)
    assert text.tolist() == expected.tolist()


@torch.no_grad()
def test_tables_are_strict_both_ways() -> None:
    ours, theirs, _ = pair("llama_bias")
    table = llama.hf_keys(ours.config)
    back = dict(table.inverse().apply(ours.state_dict()))
    source = theirs.state_dict()
    assert back.keys() == source.keys()
    assert all(torch.equal(back[k], source[k]) for k in source)
    from polymodal.errors import WeightsError

    with pytest.raises(WeightsError, match="stranger"):
        dict(table.apply({**source, "model.stranger.weight": torch.zeros(1)}, ours))
    source.pop("model.layers.1.mlp.up_proj.weight")
    with pytest.raises(WeightsError, match="up_proj"):
        dict(table.apply(source, ours))


def test_unknown_scaling_is_refused() -> None:
    config = {**BASE, "rope_scaling": {"type": "su", "factor": 2.0}}
    with pytest.raises(ConfigError, match="'su'"):
        llama.parse_config(config)


def test_old_and_new_spelling_of_rope_settings_agree() -> None:
    settings = {k: v for k, v in LLAMA3.items() if k != "rope_theta"}
    old = {**BASE, "rope_theta": 500.0, "rope_scaling": settings}
    assert llama.parse_config(old) == llama.parse_config({**BASE, "rope_parameters": LLAMA3})


@pytest.mark.parametrize(
    ("family", "prefix"), [(llama, "Llama"), (mistral, "Mistral"), (qwen, "Qwen2"), (gemma, "Gemma")]
)
def test_absent_keys_take_the_defaults_of_the_library(family: Any, prefix: str) -> None:
    full = getattr(transformers, f"{prefix}Config")().to_dict()
    assert family.parse_config({}) == family.parse_config(full)
