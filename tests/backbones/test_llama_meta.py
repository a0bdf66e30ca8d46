"""Meta's layout of LLaMA against transformers: rows of wq and wk turned as in the library's own conversion."""

import pytest
import torch

from polymodal.backbones import llama_meta
from polymodal.check import randomise
from polymodal.weights.load import load_into


def test_published_widths_follow_from_params():
    seven = {"dim": 4096, "multiple_of": 256, "n_heads": 32, "n_layers": 32, "norm_eps": 1e-6, "vocab_size": 32000}
    seventy = {**seven, "dim": 8192, "multiple_of": 4096, "ffn_dim_multiplier": 1.3, "n_kv_heads": 8}
    assert llama_meta.shape_of(seven).ffn_width == 11008
    assert (llama_meta.shape_of(seventy).ffn_width, llama_meta.shape_of(seventy).kv_heads) == (28672, 8)


@torch.no_grad()
def test_equals_transformers():
    transformers = pytest.importorskip("transformers")
    params = {
        "dim": 48,
        "multiple_of": 16,
        "n_heads": 6,
        "n_kv_heads": 2,
        "n_layers": 2,
        "norm_eps": 1e-5,
        "vocab_size": 50,
    }
    shape = llama_meta.shape_of(params)
    config = transformers.LlamaConfig(
        hidden_size=48, intermediate_size=shape.ffn_width, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=2, vocab_size=50, rms_norm_eps=1e-5,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    randomise.fill(theirs)
    state = theirs.state_dict()

    def turned(weight: torch.Tensor, heads: int) -> torch.Tensor:
        return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)

    meta = {
        "tok_embeddings.weight": state["model.embed_tokens.weight"],
        "norm.weight": state["model.norm.weight"],
        "output.weight": state["lm_head.weight"],
        "rope.freqs": torch.ones(4),
    }
    names = {
        "wv": "self_attn.v_proj",
        "wo": "self_attn.o_proj",
        "w1": "mlp.gate_proj",
        "w2": "mlp.down_proj",
        "w3": "mlp.up_proj",
    }
    for i in range(2):
        there, here = f"model.layers.{i}", f"layers.{i}"
        meta[f"{here}.attention.wq.weight"] = turned(state[f"{there}.self_attn.q_proj.weight"], 6)
        meta[f"{here}.attention.wk.weight"] = turned(state[f"{there}.self_attn.k_proj.weight"], 2)
        for short, long in names.items():
            group = "attention" if short in ("wv", "wo") else "feed_forward"
            meta[f"{here}.{group}.{short}.weight"] = state[f"{there}.{long}.weight"]
        meta[f"{here}.attention_norm.weight"] = state[f"{there}.input_layernorm.weight"]
        meta[f"{here}.ffn_norm.weight"] = state[f"{there}.post_attention_layernorm.weight"]
    ours = shape.config().build()
    load_into(ours, meta, llama_meta.meta_keys(ours.config))
    ids = randomise.ids("ids", (2, 7), 0, 50)
    got = ours.head(ours(ours.embed(ids), torch.arange(7)[None]))
    torch.testing.assert_close(got, theirs(ids).logits, atol=1e-5, rtol=0)
