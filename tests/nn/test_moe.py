"""The mixture of experts against Mixtral's block and balance loss in transformers."""

import pytest
import torch
from torch.utils._pytree import tree_map

from polymodal.backbones.decoder import Decoder, DecoderBlockConfig, DecoderConfig
from polymodal.check import randomise
from polymodal.errors import ConfigError
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.moe import MoE, MoEConfig, RouterLogits, balance_loss
from polymodal.nn.rope import RopeConfig


def moe(experts: int = 5, top_k: int = 2, **options: bool) -> MoE:
    expert = GatedMLPConfig(width=16, ffn_width=12)
    part = MoEConfig(width=16, expert=expert, experts=experts, top_k=top_k, **options).build()
    randomise.fill(part)
    return part


@torch.no_grad()
@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_equals_mixtral(top_k: int):
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    config = mixtral.MixtralConfig(hidden_size=16, intermediate_size=12, num_local_experts=5, num_experts_per_tok=top_k)
    theirs, ours = mixtral.MixtralSparseMoeBlock(config).eval(), moe(top_k=top_k)
    theirs.gate.weight.copy_(ours.gate.weight)
    for i, expert in enumerate(ours.experts):
        theirs.experts.gate_up_proj[i] = torch.cat((expert.gate_proj.weight, expert.up_proj.weight))
        theirs.experts.down_proj[i] = expert.down_proj.weight
    x = randomise.values("x", (2, 7, 16))
    torch.testing.assert_close(ours(x), theirs(x))


@torch.no_grad()
def test_balance_loss_equals_transformers():
    mixtral = pytest.importorskip("transformers.models.mixtral.modeling_mixtral")
    layers = torch.nn.ModuleList([moe(), moe()])
    randomise.fill(layers)
    x, mask = randomise.values("x", (2, 7, 16)), torch.tensor([[1] * 7, [0, 0, 1, 1, 1, 1, 1]])
    gates = RouterLogits()
    layers[1](layers[0](x, router_logits=gates), router_logits=gates)
    assert [tuple(g.shape) for g in gates] == [(14, 5), (14, 5)]
    for given in (None, mask):
        want = mixtral.load_balancing_loss_func(tuple(gates), 5, 2, given)
        torch.testing.assert_close(balance_loss(gates, 2, given), want)
    layers[0](x)
    assert len(gates) == 2  # nobody listens who was not asked


@torch.no_grad()
def test_dense_and_gathered_agree_with_and_without_normalising():
    for normalise in (True, False):
        gathered = moe(normalise=normalise)
        dense = moe(normalise=normalise, dense=True)
        x = randomise.values("x", (2, 3, 16))
        torch.testing.assert_close(gathered(x), dense(x))


def test_the_gate_learns_from_the_task_and_from_the_balance():
    part = moe()
    out = part(torch.randn(4, 16))
    out.sum().backward()
    assert part.gate.weight.grad.abs().sum() > 0
    part.zero_grad()
    gates = RouterLogits()
    part(torch.randn(4, 16), router_logits=gates)
    balance_loss(gates, 2).backward()
    assert part.gate.weight.grad.abs().sum() > 0


def test_refusals():
    with pytest.raises(ConfigError, match="top_k"):
        moe(experts=2, top_k=3)
    with pytest.raises(ConfigError, match="no gate logits"):
        balance_loss([], 2)


def mixed_decoder() -> Decoder:
    """Mixtures in every second layer."""
    attention = AttentionConfig(width=16, heads=2)
    plain = GatedMLPConfig(width=16, ffn_width=12)
    mixture = MoEConfig(width=16, expert=plain, experts=4)
    blocks = tuple(DecoderBlockConfig(attention=attention, mlp=(mixture, plain)[i % 2]) for i in range(4))
    decoder = DecoderConfig(vocab_size=11, width=16, blocks=blocks, rope=RopeConfig(head_dim=8)).build()
    randomise.fill(decoder)
    return decoder


def test_a_decoder_hands_out_the_logits_of_its_own_pass_and_no_other():
    decoder = mixed_decoder()
    x, positions = randomise.values("x", (2, 5, 16)), torch.arange(5)[None]
    mine, other = RouterLogits(), RouterLogits()
    hidden = decoder(x, positions, router_logits=mine)
    decoder(x + 1, positions, router_logits=other)
    torch.testing.assert_close(decoder(x, positions), hidden)
    assert [tuple(logits.shape) for logits in mine] == [(10, 4), (10, 4)] and len(other) == 2
    assert not torch.equal(mine[0], other[0])
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in decoder.modules())
    balance_loss(mine, 2).backward()
    assert all(block.mlp.gate.weight.grad is not None for block in decoder.blocks[::2])


def test_a_collector_is_not_copied_with_the_arguments():
    """Fully sharded modules flatten and rebuild their arguments; what is appended must reach the caller."""
    gates = RouterLogits()
    (kept,), options = tree_map(lambda x: x, ((gates,), {"router_logits": gates}))
    assert kept is gates and options["router_logits"] is gates


def test_in_training_every_expert_takes_part_if_only_with_no_token() -> None:
    part = moe(experts=5, top_k=1).train()
    x = randomise.values("x", (1, 2, 16))
    found = part(x)
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in part.parameters())
    torch.testing.assert_close(part.eval()(x), found)


def test_the_loss_of_a_language_model_has_the_load_balance_in_it():
    decoder = mixed_decoder()
    model = MultimodalLM({}, {}, decoder, {})
    ids = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    output = model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100))
    gates = RouterLogits()
    model.run_backbone({"input_ids": ids, "attention_mask": mask}, {}, None, gates)
    torch.testing.assert_close(output.losses["load_balance"], 0.02 * balance_loss(gates, 2, mask))
    torch.testing.assert_close(output.loss, output.losses["language_model"] + output.losses["load_balance"])
    assert model(input_ids=ids).losses is None
