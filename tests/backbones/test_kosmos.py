"""KOSMOS's decoder and connector against transformers; all parameters random."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from decoder_parity import TOLERANCE, build_like, stepwise

from polymodal.backbones.decoder import DecoderBlockConfig, DecoderConfig
from polymodal.backbones.kosmos import SinusoidalPositionsConfig, hf_keys, magneto, parse_config, positions_of
from polymodal.check.randomise import fill, ids, values
from polymodal.connectors.latent_query import HF_KEYS, LatentQueryConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.fuse import fuse_projections
from polymodal.nn.mask import MaskSpec
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.rope import RopeConfig

BASE = {"vocab_size": 61, "embed_dim": 32, "ffn_dim": 44, "layers": 2, "attention_heads": 4}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layers": 1, "attention_heads": 3, "embed_dim": 21, "scale_embedding": False, "activation_function": "relu"},
        {"tie_word_embeddings": False, "layer_norm_eps": 1e-2, "pad_token_id": 4, "add_cross_attention": True},
    ],
)
def test_equals_transformers(options: dict[str, Any]) -> None:
    pytest.importorskip("transformers")
    from transformers.models.kosmos2.modeling_kosmos2 import Kosmos2TextConfig, Kosmos2TextForCausalLM

    given = Kosmos2TextConfig(**{**BASE, **options})
    theirs = Kosmos2TextForCausalLM(given).eval()
    fill(theirs)
    config = parse_config(given.to_dict())
    ours = build_like(config, hf_keys(config), theirs.state_dict())
    input_ids = ids("ids", (2, 11), 5, 61)
    mask = torch.ones_like(input_ids)
    mask[0, :3] = 0
    input_ids = torch.where(mask.bool(), input_ids, given.pad_token_id)
    positions = positions_of(input_ids, given.pad_token_id)
    with torch.no_grad():
        wanted = theirs(input_ids, attention_mask=mask).logits
        spec = MaskSpec(attention_mask=mask)
        found = ours.head(ours(ours.embed(input_ids), positions, spec))
        parts = stepwise(ours, input_ids, [5, 1, 5], mask)
    real = mask.bool()
    torch.testing.assert_close(found[real], wanted[real], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(parts[real], wanted[real], atol=TOLERANCE, rtol=0)
    assert wanted[real].std() > 0.3


@pytest.mark.parametrize("fused", [False, True])
def test_xpos_in_any_decoder_steps_as_a_full_pass(fused: bool) -> None:
    """LLaMA's blocks, which the native library knows, with a rope that it does not know."""
    block = DecoderBlockConfig(
        attention=AttentionConfig(width=32, heads=4, kv_heads=2),
        mlp=GatedMLPConfig(width=32, ffn_width=48, activation="silu"),
    )
    plain, xpos = (RopeConfig(head_dim=8, xpos_base=base) for base in (None, 6))
    config = DecoderConfig(vocab_size=61, width=32, blocks=(block,) * 2, rope=xpos)
    decoder = config.build().eval()
    fill(decoder)
    other = replace(config, rope=plain).build().eval()
    other.load_state_dict(decoder.state_dict())
    input_ids = ids("ids", (2, 11), 5, 61)
    positions = torch.arange(11)[None]
    with torch.no_grad():
        wanted = decoder.head(decoder(decoder.embed(input_ids), positions))
        unlike = other.head(other(other.embed(input_ids), positions))
        if fused:
            assert fuse_projections(decoder)
        parts = stepwise(decoder, input_ids, [5, 1, 5])
    torch.testing.assert_close(parts, wanted, atol=TOLERANCE, rtol=0)
    assert (wanted - unlike).abs().max() > 1e-2


def test_magneto_s_first_weights() -> None:
    decoder = parse_config({**BASE, "embed_dim": 128, "ffn_dim": 512, "layers": 3}).build()
    before = decoder.embed_tokens.weight.clone()
    attn, mlp = magneto(decoder).blocks[1].attn, decoder.blocks[1].mlp
    gain = math.log(6) ** 0.5
    for weight, factor in ((attn.q_proj.weight, 1.0), (attn.k_proj.weight, 1.0), (attn.v_proj.weight, gain),
                           (attn.o_proj.linear.weight, gain), (mlp.up_proj.weight, gain),
                           (mlp.down_proj.linear.weight, gain)):  # fmt: skip
        wanted = factor * (2 / sum(weight.shape)) ** 0.5
        assert abs(weight.std().item() / wanted - 1) < 0.03
    assert decoder.embed_tokens.weight.equal(before) and decoder.blocks[1].mlp_norm.weight.eq(1).all()


def test_connector_equals_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.kosmos2.modeling_kosmos2 import Kosmos2ImageToTextProjection

    given = transformers.Kosmos2Config(text_config=BASE, vision_config={"hidden_size": 20}, latent_query_num=5)
    given.text_config._attn_implementation = "sdpa"
    theirs = Kosmos2ImageToTextProjection(given).eval()
    fill(theirs)
    ours = LatentQueryConfig(queries=5, heads=4, unit=True).build(20, 32).eval()
    ours.load_state_dict(dict(HF_KEYS.apply(theirs.state_dict(), ours)))
    features = values("features", (3, 7, 20))
    with torch.no_grad():
        wanted = theirs(torch.nn.functional.normalize(features, dim=-1))[0]
        torch.testing.assert_close(ours(features), wanted, atol=1e-5, rtol=0)


def test_padding_has_no_position() -> None:
    assert positions_of(torch.tensor([[1, 1, 7, 1, 9]]), 1).tolist() == [[-1, -1, 0, -1, 1]]
    table = SinusoidalPositionsConfig().build(8)(torch.tensor([[-1, 0]]))
    assert not table[0, 0].any() and table[0, 1].abs().sum() > 1


def test_a_config_without_padding_is_refused() -> None:
    with pytest.raises(ConfigError, match="pad_token_id"):
        parse_config({"pad_token_id": None})
