"""OPT against transformers with every option of its config, all weights random."""

from typing import Any

import decoder_parity as parity
import pytest
import torch

from polymodal.backbones import opt
from polymodal.check import randomise
from polymodal.weights.load import load_into

transformers = pytest.importorskip("transformers")

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 40, "vocab_size": 70,
        "max_position_embeddings": 24, "pad_token_id": 1}  # fmt: skip
OPTIONS: list[dict[str, Any]] = [
    {},
    {"tie_word_embeddings": False, "num_hidden_layers": 1, "hidden_size": 33, "num_attention_heads": 3},
    {"do_layer_norm_before": False, "word_embed_proj_dim": 20},
    {"word_embed_proj_dim": 40, "tie_word_embeddings": False, "activation_function": "gelu"},
    {"_remove_final_layer_norm": True, "enable_bias": False},
    {"layer_norm_elementwise_affine": False, "activation_function": "silu"},
]


@pytest.mark.parametrize("options", OPTIONS)
@torch.no_grad()
def test_against_transformers(options: dict[str, Any]) -> None:
    oracle = transformers.OPTForCausalLM(transformers.OPTConfig(**{**TINY, **options})).eval()
    randomise.fill(oracle)
    config = opt.parse_config(oracle.config.to_dict())
    model = config.build().eval()
    load_into(model, oracle.state_dict(), opt.hf_keys(config))
    ids = randomise.ids("ids", (3, 9), 2, 70)
    mask = torch.tensor([[1] * 9, [0] * 3 + [1] * 6, [1] * 2 + [0] * 2 + [1] * 5])
    expected = oracle(input_ids=ids, attention_mask=mask).logits
    real = mask.bool()
    assert (parity.logits(model, ids, mask) - expected)[real].abs().max() <= parity.TOLERANCE
    assert (parity.stepwise(model, ids, [4, 1, 1, 3], mask) - expected)[real].abs().max() <= parity.TOLERANCE
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in oracle.parameters())


@pytest.mark.parametrize("shape", ["OPT_350M", "OPT_2_7B", "OPT_6_7B"])
def test_published_sizes(shape: str) -> None:
    counts = {"OPT_350M": 331_196_416, "OPT_2_7B": 2_651_596_800, "OPT_6_7B": 6_658_473_984}
    with torch.device("meta"):
        model = getattr(opt, shape).config().build()
    assert sum(p.numel() for p in model.parameters()) == counts[shape]
