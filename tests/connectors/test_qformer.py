"""The Q-Former against transformers' BLIP-2 and InstructBLIP ones, all weights random."""

from typing import Any

import pytest
import torch

from polymodal.check import randomise
from polymodal.connectors import qformer
from polymodal.errors import ConfigError, PromptError
from polymodal.weights.keytable import KeyTable, rename
from polymodal.weights.load import load_into

transformers = pytest.importorskip("transformers")

SIZES = [
    {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40},
    {"hidden_size": 30, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 50},
    {"hidden_size": 24, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 36,
     "cross_attention_frequency": 3, "hidden_act": "gelu_new", "layer_norm_eps": 1e-6, "max_position_embeddings": 20},
]  # fmt: skip


def filled(module: Any) -> Any:
    randomise.fill(module)
    return module.eval()


def load(config: qformer.QFormerConfig, queries: torch.Tensor, tensors: Any, table: KeyTable) -> qformer.QFormer:
    module = config.build()
    load_into(module, {"query_tokens": queries, **tensors}, table + KeyTable((rename("query_tokens", "queries"),)))
    return module.eval()


@pytest.mark.parametrize("sizes", SIZES)
@torch.no_grad()
def test_blip_2(sizes: dict[str, Any]) -> None:
    theirs = transformers.Blip2QFormerConfig(**sizes, encoder_hidden_size=28, vocab_size=60)
    oracle = filled(transformers.Blip2QFormerModel(theirs))
    config = qformer.parse_config(theirs.to_dict(), queries=5, source_width=28)
    queries = randomise.values("queries", (5, theirs.hidden_size))
    module = load(config, queries, oracle.state_dict(), qformer.hf_keys(config))
    source = randomise.values("source", (3, 7, 28))
    expected = oracle(query_embeds=queries.expand(3, -1, -1), encoder_hidden_states=source).last_hidden_state
    assert (module(source) - expected).abs().max() <= 1e-5
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in oracle.parameters()) + queries.numel()
    with pytest.raises(PromptError, match="no text"):
        module(source, torch.ones(3, 2, dtype=torch.int64))


@pytest.mark.parametrize("sizes", SIZES)
@torch.no_grad()
def test_instructblip(sizes: dict[str, Any]) -> None:
    theirs = transformers.InstructBlipQFormerConfig(**sizes, encoder_hidden_size=28, vocab_size=60)
    oracle = filled(transformers.InstructBlipQFormerModel(theirs))
    config = qformer.parse_config(theirs.to_dict(), queries=4, source_width=28, text="full")
    queries = randomise.values("queries", (4, theirs.hidden_size))
    table = qformer.hf_keys(config, norm="embeddings.layernorm")
    module = load(config, queries, oracle.state_dict(), table)
    source = randomise.values("source", (2, 7, 28))
    ids = randomise.ids("ids", (2, 6), 0, 60)
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    whole = torch.cat((torch.ones(2, 4, dtype=torch.int64), mask), 1)
    expected = oracle(
        input_ids=ids,
        attention_mask=whole,
        query_embeds=queries.expand(2, -1, -1),
        encoder_hidden_states=source,
    ).last_hidden_state[:, :4]
    assert (module(source, ids, mask) - expected).abs().max() <= 1e-5
    alone = module(source[1:], ids[1:, :4])
    assert (alone - expected[1:]).abs().max() <= 1e-5
    with pytest.raises(PromptError, match=r"one text per item \(2\), found 1"):
        module(source, ids[:1])


def test_refused() -> None:
    with pytest.raises(ConfigError, match="text_mlp"):
        qformer.QFormerConfig(vocab_size=10)
    with pytest.raises(ConfigError, match="cross_every"):
        qformer.QFormerConfig(cross_every=0)


def test_published_sizes() -> None:
    with torch.device("meta"):
        plain = qformer.QFormerConfig().build()
        reading = qformer.QFormerConfig(text_mlp=True, vocab_size=30523).build()
    assert sum(p.numel() for p in plain.parameters()) == 105_137_664 + 24_576
    assert sum(p.numel() for p in reading.parameters()) == 185_660_160 + 24_576


@torch.no_grad()
def test_writing_sees_the_queries_and_earlier_words_only() -> None:
    config = qformer.QFormerConfig(
        width=16, depth=4, heads=2, ffn_width=20, source_width=12, queries=3, text_mlp=True, vocab_size=30, positions=9
    )
    module = filled(config.build())
    source, ids = randomise.values("source", (2, 5, 12)), randomise.ids("words", (2, 6), 1, 30)
    states = module.caption_states(source, ids)
    later = ids.clone()
    later[:, 4] = (ids[:, 4] + 1) % 30
    changed = module.caption_states(source, later)
    assert torch.equal(changed[:, :4], states[:, :4]) and not torch.allclose(changed[:, 4], states[:, 4])
    assert not torch.allclose(module.caption_states(source + 1, ids), states)
    # A row that is padded on the right has the states of the row alone.
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]] * 2)
    short = module.caption_states(source, ids[:, :4])
    assert torch.allclose(module.caption_states(source, ids, mask)[:, :4], short, atol=1e-5)
