"""MPT and GPT-NeoX against `transformers`: tiny random models, ALL parameters random, float32, error <= 1e-4."""

from typing import Any

import pytest
import torch
from decoder_parity import IDS, MASK, TOLERANCE, assert_equals_library, build_like, logits, tiny
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")

from polymodal.backbones import gpt_neox, mpt  # noqa: E402
from polymodal.check.randomise import fill  # noqa: E402
from polymodal.errors import ConfigError  # noqa: E402

MPT: dict[str, Any] = {"d_model": 40, "n_heads": 5, "n_layers": 2, "vocab_size": 61, "max_seq_len": 64}
NEOX: dict[str, Any] = {
    "hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 2, "intermediate_size": 72, "vocab_size": 61,
    "max_position_embeddings": 64,
}  # fmt: skip
CASES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "mpt": (mpt, "Mpt", MPT),
    "mpt_power_of_two": (mpt, "Mpt", {**MPT, "n_heads": 8, "n_layers": 1}),
    "mpt_clip": (mpt, "Mpt", {**MPT, "attn_config": {"clip_qkv": 0.7, "softmax_scale": 0.2}}),
    "mpt_eps_untied": (mpt, "Mpt", {**MPT, "layer_norm_epsilon": 0.1, "tie_word_embeddings": False}),
    "neox": (gpt_neox, "GPTNeoX", NEOX),
    "neox_serial": (gpt_neox, "GPTNeoX", {**NEOX, "use_parallel_residual": False, "rotary_pct": 1.0}),
    "neox_half": (
        gpt_neox,
        "GPTNeoX",
        {**NEOX, "rotary_pct": 0.5, "rotary_emb_base": 500, "hidden_act": "gelu_new", "layer_norm_eps": 0.1},
    ),
    "neox_no_bias_tied": (gpt_neox, "GPTNeoX", {**NEOX, "attention_bias": False, "tie_word_embeddings": True}),
    "neox_linear": (
        gpt_neox,
        "GPTNeoX",
        {
            **NEOX,
            "rope_parameters": {
                "rope_type": "linear", "factor": 2.0, "rope_theta": 1e3, "partial_rotary_factor": 0.5
            },
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_equals_transformers(name: str) -> None:
    assert_equals_library(*CASES[name])


class Chunked(nn.Module):
    """Stands in the place of transformers' `Wqkv`: the layer norms of MosaicGPT on its first two thirds."""

    def __init__(self, linear: nn.Linear, width: int) -> None:
        super().__init__()
        self.linear = linear
        self.q_ln, self.k_ln = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.linear(x).chunk(3, -1)
        return torch.cat((self.q_ln(q), self.k_ln(k), v), -1)


@torch.no_grad()
def test_mosaic_gpt_equals_mpt_with_normed_queries_and_keys() -> None:
    theirs = tiny(transformers.MptForCausalLM, transformers.MptConfig(**MPT))
    for block in theirs.transformer.blocks:
        block.attn.Wqkv = Chunked(block.attn.Wqkv, 40)
    fill(theirs)
    old = {
        "norm_1": "ln_1", "norm_2": "ln_2", "norm_f": "ln_f", "ffn.up_proj": "mlp.mlp_up",
        "ffn.down_proj": "mlp.mlp_down", "Wqkv.linear": "Wqkv", "Wqkv.q_ln": "q_ln", "Wqkv.k_ln": "k_ln",
    }  # fmt: skip
    source = {}
    for name, value in theirs.state_dict().items():
        for new, spelled in old.items():
            name = name.replace(new, spelled)
        source[name] = value
    del source["lm_head.weight"]
    options = {"model_type": "mosaic_gpt", **MPT, "attn_qk_ln": True, "alibi": True, "no_bias": True}
    config = mpt.parse_config(options)
    ours = build_like(config, mpt.hf_keys(config, "mosaic_gpt"), source)
    expected = theirs(input_ids=IDS, attention_mask=MASK).logits[MASK.bool()]
    torch.testing.assert_close(logits(ours, IDS, MASK)[MASK.bool()], expected, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(
    ("module", "options", "count"),
    [
        (mpt, {"model_type": "mosaic_gpt", "attn_qk_ln": True, "alibi": True, "no_bias": True}, 1_311_311_872),
        (mpt, {"d_model": 4096, "n_heads": 32, "n_layers": 32, "vocab_size": 50432}, 6_649_286_656),
    ],
)
def test_published_sizes(module: Any, options: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        model = module.parse_config(options).build()
    assert sum(p.numel() for p in model.parameters()) == count


def test_redpajama_3b_is_the_preset() -> None:
    published = {
        "hidden_size": 2560, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 10240,
        "rotary_pct": 1.0, "use_parallel_residual": False, "vocab_size": 50432,
    }  # fmt: skip
    assert gpt_neox.parse_config(published) == gpt_neox.REDPAJAMA_3B.config()
    with torch.device("meta"):
        count = sum(p.numel() for p in gpt_neox.REDPAJAMA_3B.config().build().parameters())
        theirs = transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**published))
    assert count == sum(p.numel() for p in theirs.parameters())


def test_options_that_are_not_supported_are_named() -> None:
    with pytest.raises(ConfigError, match="multiquery_attention"):
        mpt.parse_config({"attn_config": {"attn_type": "multiquery_attention"}})
    with pytest.raises(ConfigError, match="logit_scale"):
        mpt.parse_config({"logit_scale": "inv_sqrt_d_model"})
