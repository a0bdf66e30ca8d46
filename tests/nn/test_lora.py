"""Low-rank adapters: nothing at first, the right matrices trained, merged equal to running, gone without a trace."""

import pytest
import torch
from torch import nn

from polymodal.errors import ConfigError, UnknownName, WeightsError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.linear import Linear
from polymodal.nn.lora import LoRALinear, LowRank, adapt, apply_lora, load_lora, lora_state, merge_lora, remove_lora
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.quantise import Int8Linear


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
    own = [name for name in adapted.state_dict() if ".adapters." not in name]
    assert own == list(plain.state_dict()) and len(lora_state(adapted)) == 4


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
    delta = 2.0 * part.adapters["default"].lora_B.weight @ part.adapters["default"].lora_A.weight
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
    learning = [n for n, p in adapted.named_parameters() if p.grad is not None]
    assert [n.replace(".adapters.default", "") for n in learning] == list(lora_state(adapted))
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
    path = part.adapters["default"]
    expected = part.weight.float() + path.lora_B.weight.float() @ path.lora_A.weight.float()
    merge_lora(adapted)
    assert torch.equal(adapted.attn.q_proj.weight, expected.detach().bfloat16())


def change(rows: int, columns: int, rank: int = 3, dora: bool = False) -> LowRank:
    magnitude = torch.rand(rows) + 0.5 if dora else None
    return LowRank(a=torch.randn(rank, columns), b=torch.randn(rows, rank), scale=0.7, magnitude=magnitude)


def published(weight: torch.Tensor, low: LowRank) -> torch.Tensor:
    """The changed weight [out, in] as the papers write it."""
    changed = weight + low.scale * low.b @ low.a
    if low.magnitude is not None:
        changed = low.magnitude[:, None] * changed / changed.norm(dim=1, keepdim=True)
    return changed


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("kind", [Linear, nn.Linear])
def test_a_linear_with_an_adapter_is_the_changed_linear(kind: type[nn.Linear], dora: bool) -> None:
    torch.manual_seed(0)
    part, low, x = kind(6, 5), change(5, 6, dora=dora), torch.randn(2, 4, 6)
    expected = x @ published(part.weight, low).T + part.bias
    adapt(part, low)
    assert (part(x) - expected).abs().max() <= 1e-5
    assert merge_lora(part) == 1 and type(part) is kind
    assert (part(x) - expected).abs().max() <= 1e-5


@pytest.mark.parametrize("dora", [False, True])
def test_an_embedding_with_an_adapter_is_the_changed_table(dora: bool) -> None:
    torch.manual_seed(0)
    part, low, ids = nn.Embedding(7, 5), change(5, 7, dora=dora), torch.randint(0, 7, (2, 3))
    expected = published(part.weight.T, low).T[ids]
    adapt(part, low)
    assert (part(ids) - expected).abs().max() <= 1e-5
    merge_lora(part)
    assert type(part) is nn.Embedding and (part(ids) - expected).abs().max() <= 1e-5


def test_the_length_in_dora_takes_no_gradient() -> None:
    torch.manual_seed(0)
    part, low = Linear(6, 5), change(5, 6, dora=True)
    weight = part.weight.detach().clone()
    adapt(part, low)
    x = torch.randn(3, 6)
    part(x).square().sum().backward()
    a, b, m = (each.clone().requires_grad_() for each in (low.a, low.b, low.magnitude))
    changed = weight + low.scale * b @ a
    length = changed.detach().norm(dim=1, keepdim=True)
    (x @ (m[:, None] * changed / length).T + part.bias).square().sum().backward()
    path = part.adapters["default"]
    for ours, theirs in ((path.lora_A.weight, a), (path.lora_B.weight, b), (path.magnitude, m)):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-4, rtol=1e-4)


def test_several_are_summed_and_leave_one_by_one() -> None:
    torch.manual_seed(0)
    part, first, second = Linear(6, 5, bias=False), change(5, 6), change(5, 6, rank=2)
    weight, x = part.weight.detach().clone(), torch.randn(3, 6)
    adapt(part, first, "first")
    adapt(part, second, "second")
    both = weight + 0.7 * first.b @ first.a + 0.7 * second.b @ second.a
    assert (part(x) - x @ both.T).abs().max() <= 1e-5
    assert remove_lora(part, "second") == 1
    assert (part(x) - x @ published(weight, first).T).abs().max() <= 1e-5
    assert remove_lora(part, "second") == 0 and remove_lora(part) == 1
    assert type(part) is Linear and torch.equal(part.weight, weight)


def test_parameters_stay_the_same_objects_and_train_as_before() -> None:
    adapted = model()
    adapted.attn.q_proj.bias.requires_grad_(False)
    adapted.mlp.up_proj = adapted.mlp.gate_proj  # a part that two places share
    before = dict(adapted.named_parameters(remove_duplicate=False))
    flags = {name: p.requires_grad for name, p in before.items()}
    apply_lora(adapted, ("q_proj", "gate_proj"), 2, 2)
    assert isinstance(adapted.mlp.up_proj, LoRALinear)
    remove_lora(adapted)
    after = dict(adapted.named_parameters(remove_duplicate=False))
    assert list(after) == list(before) and all(after[name] is p for name, p in before.items())
    assert {name: p.requires_grad for name, p in after.items()} == flags


def test_half_precision_weights_take_float32_adapters() -> None:
    torch.manual_seed(0)
    part, low = Linear(6, 5).bfloat16(), change(5, 6)
    adapt(part, low)
    x = torch.randn(3, 6).bfloat16()
    y = part(x)
    plain = nn.functional.linear(x, part.weight, part.bias).float()
    expected = plain + x.float() @ low.a.T @ low.b.T * 0.7
    assert y.dtype == torch.bfloat16 and torch.equal(y, expected.bfloat16())


def test_int8_weights_take_lora_beside_them() -> None:
    torch.manual_seed(0)
    part, low = Int8Linear.of(torch.randn(5, 6), torch.randn(5)), change(5, 6)
    x = torch.randn(3, 6)
    before, kept = part(x), {name: each.clone() for name, each in part.state_dict().items()}
    adapt(part, low)
    assert (part(x) - before - 0.7 * x @ low.a.T @ low.b.T).abs().max() <= 1e-5
    with pytest.raises(ConfigError, match="int8 weights; load it without"):
        merge_lora(part)
    remove_lora(part)
    assert type(part) is Int8Linear and torch.equal(part(x), before)
    assert list(part.state_dict()) == list(kept)
    with pytest.raises(ConfigError, match="no DoRA"):
        adapt(part, change(5, 6, dora=True))


def test_what_takes_no_adapter_is_told() -> None:
    with pytest.raises(ConfigError, match="'patch' is a Conv2d"):
        adapt(nn.Conv2d(3, 4, 2), change(4, 3), path="patch")
    with pytest.raises(WeightsError, match=r"A \[rank, 6\], B \[5, rank\], found \[3, 7\]"):
        adapt(Linear(6, 5), change(5, 7))
    part = Linear(6, 5)
    adapt(part, change(5, 6), "first")
    with pytest.raises(ConfigError, match="DoRA"):
        adapt(part, change(5, 6, dora=True), "second")
    with pytest.raises(ConfigError, match="'first' already"):
        adapt(part, change(5, 6), "first")
    with pytest.raises(WeightsError, match="magnitude"):
        adapt(Linear(6, 5), LowRank(a=torch.ones(1, 6), b=torch.ones(5, 1), scale=1.0, magnitude=torch.ones(6)))


@pytest.mark.parametrize("rows", [(3, 4), (4,), ()])
def test_under_autocast_the_sum_and_its_gradients_are_those_of_float32(rows: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    part, low = Linear(64, 96), change(96, 64)
    adapt(part, low)
    x, seen = torch.randn(*rows, 64), torch.randn(*rows, 96)
    learned = list(part.adapters.parameters())

    def gradients() -> list[torch.Tensor]:
        given = x.clone().requires_grad_()
        y = part(given)
        return [y.float().detach(), *torch.autograd.grad((y.float() * seen).sum(), [given, *learned])]

    exact = gradients()
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients()
    for one, other in zip(found, exact, strict=True):
        assert (one - other).norm() <= 0.02 * other.norm()


def test_under_autocast_an_adapter_of_zeros_changes_no_int8_linear() -> None:
    torch.manual_seed(0)
    part, x = Int8Linear.of(torch.randn(48, 64), torch.randn(48)), torch.randn(3, 64)
    with torch.autocast("cpu", torch.bfloat16):
        before = part(x)
        adapt(part, LowRank(a=torch.randn(2, 64), b=torch.zeros(48, 2), scale=1.0))
        after = part(x)
    assert after.dtype == before.dtype and torch.equal(after, before)
