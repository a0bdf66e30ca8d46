"""Every rope that a LLaMA config may name, against transformers, within and beyond the trained length."""

from typing import Any

import decoder_parity as parity
import pytest
import torch

from polymodal.backbones import llama
from polymodal.backbones.hf_rope import rope_of
from polymodal.errors import ConfigError

BASE = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 64, "pad_token_id": 0,
}  # fmt: skip
LONG = {"short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [2.0 + i for i in range(8)]}
ROPES: dict[str, dict[str, Any]] = {
    "yarn_mscale": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "mscale": 0.7,
                    "mscale_all_dim": 1.4},
    "yarn_not_truncated": {"rope_type": "yarn", "factor": 8.0, "truncate": False},
    "yarn_turned_over": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 4, "rope_theta": 4.0},
    "yarn_factor_from_lengths": {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 16},
    "longrope_short": {"rope_type": "longrope", "original_max_position_embeddings": 32, "factor": 2.0, **LONG},
    "longrope_long": {"rope_type": "longrope", "original_max_position_embeddings": 8, "factor": 8.0, **LONG},
    "longrope_attention": {"rope_type": "longrope", "original_max_position_embeddings": 8, "factor": 4.0,
                           "attention_factor": 1.2, **LONG},
    "proportional": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "factor": 2.0},
    "dynamic_ignores_original": {"rope_type": "dynamic", "factor": 3.0, "original_max_position_embeddings": 8},
    "llama3_default_length": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
}  # fmt: skip


@pytest.mark.parametrize("name", ROPES)
@torch.no_grad()
def test_equals_transformers(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    settings = {"rope_theta": 100.0, **ROPES[name]}
    hf_config = transformers.LlamaConfig(**BASE, rope_parameters=settings)
    theirs = parity.tiny(transformers.LlamaForCausalLM, hf_config)
    config = llama.parse_config(hf_config.to_dict())
    ours = parity.build_like(config, llama.hf_keys(config), theirs.state_dict())
    ids = torch.randint(3, 60, (2, 21), generator=torch.Generator().manual_seed(1))
    assert (parity.logits(ours, ids) - theirs(ids).logits).abs().max() <= parity.TOLERANCE


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(ConfigError, match="'su' is not supported"):
        rope_of({"rope_scaling": {"type": "su", "factor": 2.0}})
