"""The post-norm block against transformers' BertLayer, all parameters randomised, float32, max abs error <= 1e-4."""

import pytest
import torch

from polymodal.check import randomise
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.block import PostNormBlock, PostNormBlockConfig
from polymodal.nn.cache import KVCache
from polymodal.nn.mask import MaskSpec
from polymodal.nn.mlp import MLPConfig

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-4
_NAMES = {
    "attention.self.query": "attn.q_proj",
    "attention.self.key": "attn.k_proj",
    "attention.self.value": "attn.v_proj",
    "attention.output.dense": "attn.o_proj",
    "attention.output.LayerNorm": "attn_norm",
    "crossattention.self.query": "cross.q_proj",
    "crossattention.self.key": "cross.k_proj",
    "crossattention.self.value": "cross.v_proj",
    "crossattention.output.dense": "cross.o_proj",
    "crossattention.output.LayerNorm": "cross_norm",
    "intermediate.dense": "mlp.up_proj",
    "output.dense": "mlp.down_proj",
    "output.LayerNorm": "mlp_norm",
}


def _pair(width: int, heads: int, ffn: int) -> tuple[torch.nn.Module, PostNormBlock]:
    config = transformers.BertConfig(
        hidden_size=width,
        num_attention_heads=heads,
        intermediate_size=ffn,
        is_decoder=True,
        add_cross_attention=True,
        num_hidden_layers=1,
        vocab_size=10,
        attn_implementation="eager",
    )
    oracle = transformers.BertModel(config, add_pooling_layer=False).eval()
    randomise.fill(oracle)
    attention = AttentionConfig(width=width, heads=heads, qkv_bias=True, out_bias=True)
    cross = AttentionConfig(width=width, heads=heads, qkv_bias=True, out_bias=True, source_width=width)
    mlp = MLPConfig(width=width, ffn_width=ffn)
    ours = PostNormBlockConfig(attention=attention, mlp=mlp, cross=cross).build().eval()
    state = oracle.encoder.layer[0].state_dict()
    names = [(a, b, leaf) for a, b in _NAMES.items() for leaf in ("weight", "bias")]
    ours.load_state_dict({f"{b}.{leaf}": state[f"{a}.{leaf}"] for a, b, leaf in names})
    return oracle, ours


@pytest.mark.parametrize(("width", "heads", "ffn"), [(24, 3, 40), (36, 1, 20)])
@torch.no_grad()
def test_self_attention_cross_attention_and_feed_forward_equal_bert(width: int, heads: int, ffn: int) -> None:
    oracle, ours = _pair(width, heads, ffn)
    embeds, source = randomise.values("x", (3, 7, width)), randomise.values("s", (3, 5, width))
    mask, seen = torch.ones(3, 7, dtype=torch.long), torch.ones(3, 5, dtype=torch.long)
    mask[1, 4:] = 0
    seen[2, 2:] = 0
    expected = oracle(
        inputs_embeds=embeds, attention_mask=mask, encoder_hidden_states=source, encoder_attention_mask=seen
    ).last_hidden_state
    x = oracle.embeddings(inputs_embeds=embeds)
    other = MaskSpec(causal=False, visible=seen[:, None].expand(-1, 7, -1))
    found = ours(x, MaskSpec(attention_mask=mask), source=source, source_mask=other)
    assert (found - expected).abs().max() <= TOLERANCE
    cache = KVCache.allocate(1, 3, heads, width // heads, 7)
    steps = []
    for start, end in ((0, 3), (3, 4), (4, 6), (6, 7)):
        seen_by = MaskSpec(causal=False, visible=seen[:, None].expand(-1, end - start, -1))
        given = source if start == 0 else None
        rule = MaskSpec(attention_mask=mask[:, :end])
        steps.append(ours(x[:, start:end], rule, source=given, source_mask=seen_by, cache=cache.layer(0)))
        cache.advance(end - start)
    assert (torch.cat(steps, 1) - expected).abs().max() <= TOLERANCE


@torch.no_grad()
def test_without_a_source_the_cross_step_is_skipped() -> None:
    oracle, ours = _pair(24, 3, 40)
    embeds = randomise.values("x", (2, 4, 24))
    expected = oracle(inputs_embeds=embeds).last_hidden_state
    found = ours(oracle.embeddings(inputs_embeds=embeds), MaskSpec())
    assert (found - expected).abs().max() <= TOLERANCE
