"""Persimmon against transformers: partial rotation, norms of q and k, squared ReLU; all parameters random."""

from typing import Any

import pytest
import torch
from decoder_parity import TOLERANCE, build_like, logits, stepwise, tiny

from polymodal.backbones.persimmon import hf_keys, parse_config
from polymodal.errors import ConfigError

BASE = {"vocab_size": 61, "hidden_size": 32, "intermediate_size": 44, "num_hidden_layers": 2, "num_attention_heads": 4}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 2.0, "partial_rotary_factor": 0.5}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 1.0}},
        {"qk_layernorm": False, "num_hidden_layers": 1, "hidden_act": "gelu", "layer_norm_eps": 1e-3},
        {"tie_word_embeddings": True, "num_attention_heads": 2},
        {"rope_parameters": DYNAMIC, "max_position_embeddings": 10},
    ],
)
def test_equals_transformers(options: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    given = transformers.PersimmonConfig(**{**BASE, **options})
    theirs = tiny(transformers.PersimmonForCausalLM, given)
    config = parse_config(given.to_dict())
    ours = build_like(config, hf_keys(config), theirs.state_dict())
    input_ids = torch.randint(0, 61, (2, 13))
    mask = torch.ones_like(input_ids)
    mask[0, :4] = 0
    with torch.no_grad():
        wanted = theirs(input_ids, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp_min(0)).logits
        found = logits(ours, input_ids, mask)
        parts = stepwise(ours, input_ids, [5, 1, 4, 3], mask)
    real = mask.bool()
    torch.testing.assert_close(found[real], wanted[real], atol=TOLERANCE, rtol=0)
    if "rope_parameters" not in options or options["rope_parameters"]["rope_type"] == "default":
        torch.testing.assert_close(parts[real], wanted[real], atol=TOLERANCE, rtol=0)
    assert wanted[real].std() > 0.3


def test_defaults_are_the_published_8b() -> None:
    config = parse_config({})
    with torch.device("meta"):
        assert sum(p.numel() for p in config.build().parameters()) == 9_397_175_296


def test_widths_that_do_not_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of"):
        parse_config({"hidden_size": 30, "num_attention_heads": 4})
