"""BLOOM against transformers with every option of its config, all weights random."""

from typing import Any

import decoder_parity as parity
import pytest
import torch

from polymodal.backbones import bloom, hf_text
from polymodal.check import randomise
from polymodal.weights.load import load_into

TINY = {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 70, "pad_token_id": 3}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"n_head": 3, "hidden_size": 33, "n_layer": 1, "tie_word_embeddings": False},
    {"n_head": 6, "hidden_size": 36, "apply_residual_connection_post_layernorm": True, "layer_norm_epsilon": 1e-3},
    {"slow_but_exact": True, "pretraining_tp": 2},
    {"slow_but_exact": True},
]


@pytest.mark.parametrize("options", OPTIONS)
@torch.no_grad()
def test_against_transformers(options: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    oracle = transformers.BloomForCausalLM(transformers.BloomConfig(**{**TINY, **options})).eval()
    randomise.fill(oracle)
    config = bloom.parse_config(oracle.config.to_dict())
    model = config.build().eval()
    load_into(model, oracle.state_dict(), bloom.hf_keys(config))
    ids = randomise.ids("ids", (3, 9), 4, 70)
    mask = torch.tensor([[1] * 9, [0] * 3 + [1] * 6, [1] * 2 + [0] * 2 + [1] * 5])
    expected = oracle(input_ids=ids, attention_mask=mask).logits
    real = mask.bool()
    assert (parity.logits(model, ids, mask) - expected)[real].abs().max() <= parity.TOLERANCE
    assert (parity.stepwise(model, ids, [4, 1, 1, 3], mask) - expected)[real].abs().max() <= parity.TOLERANCE
    bare = oracle(input_ids=ids).logits
    assert (parity.logits(model, ids) - bare).abs().max() <= parity.TOLERANCE


def test_old_spellings_and_files_without_prefix() -> None:
    old = {"n_embed": 32, "n_layer": 1, "num_attention_heads": 4, "vocab_size": 70}
    config = bloom.parse_config(old)
    assert config == bloom.parse_config({"hidden_size": 32, "num_hidden_layers": 1, "n_head": 4, "vocab_size": 70})
    model = config.build()
    table = bloom.hf_keys(config, prefix="")
    names = {name for name, _ in table.inverse().apply(model.state_dict())}
    assert "h.0.self_attention.query_key_value.weight" in names
    assert "word_embeddings_layernorm.bias" in names
    tables = hf_text.parse_config({**old, "model_type": "bloom"}).keys
    first = [{row.sources[0].split(".")[0] for row in table.rows} for table in tables]
    bare = {"word_embeddings", "word_embeddings_layernorm", "h", "ln_f", "lm_head"}
    assert first == [{"transformer", "lm_head"}, bare]


def test_slopes_are_those_of_transformers() -> None:
    pytest.importorskip("transformers")
    from transformers.models.bloom.modeling_bloom import _get_alibi_slopes

    for heads in (1, 2, 3, 5, 8, 12, 32, 112):
        expected = _get_alibi_slopes(heads, torch.device("cpu"))
        assert torch.allclose(torch.tensor(bloom.alibi_slopes(heads)), expected, rtol=1e-5)


@pytest.mark.parametrize(("shape", "count"), [("BLOOM_7B1", 7_069_016_064), ("BLOOM_176B", 176_247_271_424)])
def test_published_sizes(shape: str, count: int) -> None:
    with torch.device("meta"):
        model = getattr(bloom, shape).config().build()
    assert sum(p.numel() for p in model.parameters()) == count
