"""LoRA: nothing at first, the right matrices trained, merged equal to running, equal to PEFT's arithmetic."""

import pytest
import torch
from torch import nn

from polymodal.errors import ConfigError, UnknownName, WeightsError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.linear import Linear
from polymodal.nn.lora import LoRALinear, apply_lora, load_lora, lora_state, merge_lora
from polymodal.nn.mlp import GatedMLPConfig


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn = AttentionConfig(width=16, heads=4, qkv_bias=True).build()
        self.mlp = GatedMLPConfig(width=16, ffn_width=24).build()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.mlp(self.attn(x))


def model(seed: int = 0) -> Pair:
    torch.manual_seed(seed)
    return Pair().eval()


def shake(part: nn.Module) -> None:
    for p in lora_state(part).values():
        p.normal_()


def test_starts_as_the_bare_model_and_keeps_its_names() -> None:
    plain, adapted = model(), model()
    paths = apply_lora(adapted, ("q_proj", "attn.v_proj"), rank=3, alpha=6)
    assert paths == ["attn.q_proj", "attn.v_proj"]
    x = torch.randn(2, 5, 16)
    assert torch.equal(adapted(x), plain(x))
    assert plain.state_dict().keys() == adapted.state_dict().keys() - lora_state(adapted).keys()


def test_names_choose_leaves_paths_and_prefixes() -> None:
    assert apply_lora(model(), ("mlp",), 2, 2) == ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
    assert apply_lora(model(), ("mlp.up_proj", "o_proj"), 2, 2) == ["attn.o_proj", "mlp.up_proj"]
    with pytest.raises(UnknownName, match=r"'proj'.*q_proj"):
        apply_lora(model(), ("proj",), 2, 2)
    with pytest.raises(ConfigError, match="rank"):
        apply_lora(model(), ("mlp",), 0, 2)
    twice = model()
    apply_lora(twice, ("q_proj",), 2, 2)
    for names in (("q_proj",), ("lora_A",)):
        with pytest.raises(ConfigError, match="already"):
            apply_lora(twice, names, 2, 2)


def test_computes_the_published_sum_and_merges_to_the_same() -> None:
    adapted = model()
    apply_lora(adapted, ("q_proj", "down_proj"), rank=3, alpha=6, dropout=0.5)
    shake(adapted)
    x = torch.randn(2, 5, 16)
    part = adapted.attn.q_proj
    assert isinstance(part, LoRALinear)
    delta = 2.0 * part.lora_B.weight @ part.lora_A.weight
    assert torch.allclose(part(x), x @ (part.weight + delta).T + part.bias, atol=1e-4)
    running = adapted(x)
    assert merge_lora(adapted) == 2
    assert type(adapted.attn.q_proj) is Linear and not lora_state(adapted)
    assert adapted.state_dict().keys() == model().state_dict().keys()
    assert (adapted(x) - running).abs().max() <= 1e-4


def test_only_the_path_learns() -> None:
    adapted = model()
    adapted.requires_grad_(False)
    apply_lora(adapted, ("q_proj", "up_proj"), rank=2, alpha=2)
    shake(adapted)
    adapted(torch.randn(1, 4, 16)).sum().backward()
    learning = {n for n, p in adapted.named_parameters() if p.grad is not None}
    assert learning == set(lora_state(adapted))
    free = model()
    apply_lora(free, ("q_proj",), 2, 2)
    assert not free.attn.q_proj.weight.requires_grad and free.attn.k_proj.weight.requires_grad


def test_state_goes_round_and_is_strict() -> None:
    a, b = model(), model()
    for m in (a, b):
        apply_lora(m, ("attn",), rank=2, alpha=4)
    shake(a)
    load_lora(b, lora_state(a))
    x = torch.randn(1, 3, 16)
    assert torch.equal(a(x), b(x))
    state = lora_state(a)
    with pytest.raises(WeightsError, match="no place"):
        load_lora(b, {**state, "mlp.up_proj.lora_A.weight": x})
    with pytest.raises(WeightsError, match="shape"):
        load_lora(b, {**state, "attn.q_proj.lora_A.weight": x})
    state.pop("attn.q_proj.lora_A.weight")
    with pytest.raises(WeightsError, match="missing"):
        load_lora(b, state)


def test_half_precision_merge_rounds_once() -> None:
    adapted = model().bfloat16()
    apply_lora(adapted, ("q_proj",), rank=2, alpha=2)
    shake(adapted)
    part = adapted.attn.q_proj
    expected = part.weight.float() + part.lora_B.weight.float() @ part.lora_A.weight.float()
    merge_lora(adapted)
    assert torch.equal(adapted.attn.q_proj.weight, expected.detach().bfloat16())
