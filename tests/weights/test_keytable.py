"""Key tables: strict on both sides, undone by their inverse, clear about what does not fit."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polymodal.errors import ConfigError, WeightsError
from polymodal.weights.keytable import KeyTable, copy, drop, fuse, rename, split, stack
from polymodal.weights.load import CopyDiffers, load_into
from polymodal.weights.operations import Reshape, Transpose, Unsqueeze, to_half_split
from polymodal.weights.rows import compile_pattern, fill_pattern

TABLE = KeyTable.of(
    {
        "embed.weight": "embed_tokens.weight",
        "layers.{}.norm": "blocks.{}.norm.weight",
        "layers.{}.inv_freq": None,
    },
    fuse(
        ("layers.{}.q", "layers.{}.k", "layers.{}.v"),
        "blocks.{}.qkv_proj.weight",
        sizes=(8, 4, 4),
        each=((to_half_split(2),), (to_half_split(1),), ()),
    ),
    split("layers.{}.gate_up", ("blocks.{}.gate_proj.weight", "blocks.{}.up_proj.weight"), Transpose()),
    stack("layers.{}.experts.{}.w", "blocks.{}.experts", 3, Transpose()),
    new=("connector.**",),
    tied={"head.weight": "embed_tokens.weight"},
)
FORMS = {"q": (8, 6), "k": (4, 6), "v": (4, 6), "norm": (6,), "inv_freq": (2,), "gate_up": (6, 10)}


def checkpoint(layers: int = 2) -> dict[str, torch.Tensor]:
    tensors = {"embed.weight": torch.randn(5, 6)}
    for i in range(layers):
        tensors |= {f"layers.{i}.{name}": torch.randn(shape) for name, shape in FORMS.items()}
        tensors |= {f"layers.{i}.experts.{e}.w": torch.randn(4, 7) for e in range(3)}
    return tensors


def model_shapes(layers: int = 2) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (5, 6),
        "head.weight": (5, 6),
        "connector.0.weight": (3,),
    }
    for i in range(layers):
        shapes |= {f"blocks.{i}.norm.weight": (6,), f"blocks.{i}.qkv_proj.weight": (16, 6)}
        shapes |= {f"blocks.{i}.{n}_proj.weight": (5, 6) for n in ("gate", "up")}
        shapes[f"blocks.{i}.experts"] = (3, 7, 4)
    return shapes


def test_all_kinds_of_rows_there_and_back():
    source, shapes = checkpoint(), model_shapes()
    filled = dict(TABLE.apply(source, shapes))
    assert {name: tuple(x.shape) for name, x in filled.items()} | {"connector.0.weight": (3,)} == shapes
    assert torch.equal(filled["head.weight"], source["embed.weight"])
    assert torch.equal(filled["blocks.1.experts"][2], source["layers.1.experts.2.w"].T)
    assert torch.equal(filled["blocks.0.up_proj.weight"], source["layers.0.gate_up"].T[5:])
    report = TABLE.check(source, shapes)
    assert report.ok and not report.one_way and not report.idle_rows
    assert set(report.dropped) == {"layers.0.inv_freq", "layers.1.inv_freq"}
    assert report.new == ("connector.0.weight",) and report.tied == {"head.weight": "embed_tokens.weight"}
    assert report.as_dict() == {"ok": True, "used": 17, "dropped": 2, "new": 1, "tied": 1, "problems": []}

    filled["connector.0.weight"] = torch.ones(3)
    back = dict(TABLE.inverse().apply(filled, {name: x.shape for name, x in source.items()}))
    assert set(source) - set(back) == set(report.dropped)
    assert all(torch.equal(back[name], source[name]) for name in back)


def test_prefixes_and_joined_tables():
    part = TABLE.prefixed(source="model.", target="backbone.")
    whole = part + KeyTable.of({"mm.{}.weight": "connectors.image.{}.weight"})
    source = {f"model.{name}": x for name, x in checkpoint().items()} | {"mm.0.weight": torch.randn(2)}
    shapes = {f"backbone.{name}": s for name, s in model_shapes().items()} | {"connectors.image.0.weight": (2,)}
    assert whole.check(source, shapes).ok
    filled = dict(whole.apply(source, shapes)) | {"backbone.connector.0.weight": torch.ones(3)}
    back = dict(whole.inverse().apply(filled))
    assert all(torch.equal(back[name], source[name]) for name in source if "inv_freq" not in name)


index = st.integers(0, 120)


@settings(max_examples=100, deadline=None)
@given(numbers=st.lists(index, min_size=3, max_size=3), shift=st.integers(0, 9))
def test_patterns_match_what_they_write(numbers, shift):
    pattern = f"net1.{{}}.conv2d{{+{shift}}}.a+b.{{}}.weight"
    name = fill_pattern(pattern, numbers)
    assert compile_pattern(pattern).match(name) == tuple(numbers)
    assert compile_pattern(pattern).match(name + "x") is None
    assert compile_pattern("a.{}").match("a.01") is None, "an index with a leading zero could not be written back"


@st.composite
def tables(draw):
    """A random table of disjoint rows with a checkpoint that it fits."""
    layers = draw(st.integers(1, 3))
    rows, source = [], {}
    for number in range(draw(st.integers(1, 5))):
        kind = draw(st.sampled_from(["rename", "rope", "fuse", "split", "stack", "copy", "shift", "reshape"]))
        a, b, shape = f"old.{{}}.part{number}", f"new.{{}}.piece{number}", (4, 6)
        names = [a]
        if kind == "rename":
            rows.append(rename(a, b, *draw(st.lists(st.sampled_from([Transpose(), Unsqueeze(0)]), max_size=2))))
        elif kind == "rope":
            rows.append(rename(a, b, to_half_split(draw(st.sampled_from([1, 2])))))
        elif kind == "fuse":
            names = [f"{a}.{letter}" for letter in "qkv"]
            dim = draw(st.integers(0, 1))
            rows.append(
                fuse(names, b, dim=dim, groups=draw(st.sampled_from([1, 2])), each=((Transpose(),) * 2, (), ()))
            )
        elif kind == "split":
            rows.append(split(a, (b + ".x", b + ".y"), sizes=(1, 3)))
        elif kind == "stack":
            names = [f"{a}.{expert}.w" for expert in range(3)]
            rows.append(stack(a + ".{}.w", b, 3))
        elif kind == "copy":
            rows.append(copy(a, (b + ".text", b + ".image")))
        elif kind == "reshape":
            rows.append(rename(a, b, Reshape((4, 6), (2, 2, 6))))
        else:
            names = [f"old.{{+{number}}}.shifted{number}"]
            rows.append(rename(names[0], b))
        source |= {fill_pattern(name, [i]): torch.randn(shape) for name in names for i in range(layers)}
    dropped = {f"old.{i}.inv_freq": torch.randn(1) for i in range(layers)}
    return KeyTable(tuple(draw(st.permutations([*rows, drop("old.{}.inv_freq")])))), source, dropped


@settings(max_examples=60, deadline=None)
@given(tables())
def test_a_table_and_its_inverse_are_the_identity(made):
    table, source, dropped = made
    filled = dict(table.apply(source | dropped))
    back = dict(table.inverse().apply(filled, {name: x.shape for name, x in (source | dropped).items()}))
    assert back.keys() == source.keys()
    assert all(torch.equal(back[name], source[name]) for name in source)
    again = dict(table.inverse().inverse().apply(back))
    assert again.keys() == filled.keys() and all(torch.equal(again[name], filled[name]) for name in filled)
    assert not table.check(source, None).one_way


BREAKS = [
    (
        lambda s, t: s.update({"layers.0.attn.bias": torch.ones(1)}),
        r"'layers.0.attn.bias' has no row \(nearest row: ",
    ),
    (lambda s, t: s.pop("layers.0.k"), r"'layers.0.k' is missing beside 'layers.0.q'"),
    (lambda s, t: s.pop("layers.1.experts.1.w"), r"'layers.1.experts.1.w' is missing beside"),
    (
        lambda s, t: s.pop("layers.1.norm"),
        r"'blocks.1.norm.weight' is not filled \(nearest row: .layers.{}.norm",
    ),
    (lambda s, t: s.pop("embed.weight"), r"'head.weight' is not filled \(tied to 'embed_tokens.weight'"),
    (
        lambda s, t: t.pop("blocks.0.norm.weight"),
        "fills 'blocks.0.norm.weight', which the model does not have",
    ),
    (lambda s, t: t.update({"bias": (3,)}), "'bias' is not filled"),
    (
        lambda s, t: t.update({"blocks.0.experts": (4, 7, 4)}),
        r"must have shape \(4, 7, 4\), the file gives \(3, 7, 4\)",
    ),
    (
        lambda s, t: s.update({"layers.0.q": torch.ones(9, 6)}),
        r"'layers.0.q' \(9, 6\) does not fit its row: rope order",
    ),
    (lambda s, t: t.update({"head.weight": (6, 6)}), r"'head.weight' must have shape \(6, 6\)"),
]


@pytest.mark.parametrize(("change", "words"), BREAKS, ids=[words for _, words in BREAKS])
def test_everything_that_does_not_fit_is_named_before_a_tensor_is_read(change, words):
    source, shapes = checkpoint(), model_shapes()
    change(source, shapes)

    class Unread(dict):
        """Tells shapes as the readers do and fails when a tensor is read."""

        def shape(self, name):
            return dict.__getitem__(self, name).shape

        def __getitem__(self, name):
            raise AssertionError(f"{name} was read")

    with pytest.raises(WeightsError, match=words) as caught:
        TABLE.apply(Unread(source), shapes)
    assert "\n" not in str(caught.value)


def test_overlaps_are_told():
    twice = KeyTable.of({"a": "x", "b": "x"})
    with pytest.raises(WeightsError, match="'x' is filled twice, by 'a' and 'b'"):
        twice.apply({"a": torch.ones(1), "b": torch.ones(1)}, {"x": (1,)})
    both = KeyTable.of({"a": "x"}, new=("x",))
    assert "declared new but is filled" in both.check(["a"], ["x"]).problems[0]
    general = KeyTable.of({"a.0.w": "x.7.w", "b.{}.w": "x.{}.w"})
    assert general.check(["b.7.w"], None).one_way == ("x.7.w",)
    assert KeyTable.of({"a": "x", "b": "y"}).check(["a"], ["x"]).idle_rows == ("'b' -> 'y'",)


def test_the_first_row_that_matches_decides():
    table = KeyTable.of({"a.0.w": None, "a.{}.w": "b.{}.w", "a.**": None})
    report = table.check(["a.0.w", "a.1.w", "a.rest.of.it"], ["b.1.w"])
    assert report.ok and report.used == ("a.1.w",) and set(report.dropped) == {"a.0.w", "a.rest.of.it"}


def test_works_on_the_meta_device():
    with torch.device("meta"):
        module = nn.Linear(4, 3)
    table = KeyTable.of({"w": "weight", "b": "bias"})
    assert table.check(["w", "b"], module.state_dict()).ok
    source = {"w": torch.empty(3, 4, device="meta"), "b": torch.empty(3, device="meta")}
    assert {name: tuple(x.shape) for name, x in table.apply(source, module)} == {
        "weight": (3, 4),
        "bias": (3,),
    }


def test_buffers_count():
    module = nn.BatchNorm1d(2)
    table = KeyTable.of({"w": "weight", "b": "bias", "m": "running_mean", "v": "running_var"})
    with pytest.raises(WeightsError, match="'num_batches_tracked' is not filled"):
        table.apply({name: torch.ones(2) for name in "wbmv"}, module)


WRONG_TABLES = [
    (lambda: rename("a.{}", "b"), "same number"),
    (lambda: rename("a.**", "b.**"), "only for dropped"),
    (lambda: rename("a.*", "b"), "may hold only"),
    (lambda: rename("a.{name}", "b.{}"), "may hold only"),
    (lambda: fuse(("a", "b"), "c", each=((),)), "1 entries for 2"),
    (lambda: stack("a.w", "b", 2), "needs a '{}'"),
]


@pytest.mark.parametrize(("call", "words"), WRONG_TABLES, ids=[words for _, words in WRONG_TABLES])
def test_wrong_rows_are_refused_when_the_table_is_written(call, words):
    with pytest.raises(ConfigError, match=words):
        call()


def test_a_dropped_copy_names_what_it_repeats_under_every_spelling() -> None:
    table = KeyTable((rename("embed.{}.weight", "embed.{}.weight"), drop("head.{}.weight", copy_of="embed.{}.weight")))
    names = ["a.embed.0.weight", "a.embed.1.weight", "a.head.0.weight", "a.head.2.weight"]
    report = table.prefixed("a.", "b.").check(names, None)
    assert report.copies == {"a.head.0.weight": "a.embed.0.weight"}  # of the other there is no original
    assert report.dropped == ("a.head.0.weight", "a.head.2.weight")
    spelled = table.respelled({"embed.": "words.", "head.": "out."}).reworded({"words": "wte"})
    assert spelled.check(["wte.0.weight", "out.0.weight"], None).copies == {"out.0.weight": "wte.0.weight"}


def test_a_copy_with_values_of_its_own_is_refused_before_anything_is_written() -> None:
    table = KeyTable((rename("embed", "weight"), drop("head", copy_of="embed")))
    module = torch.nn.Linear(3, 2, bias=False)
    before = module.weight.detach().clone()
    same = torch.ones(2, 3)
    for head in (same + 1, same[:1], same.half() + 1):
        with pytest.raises(CopyDiffers, match="'head' should repeat 'embed'"):
            load_into(module, {"embed": same, "head": head}, table)
        assert torch.equal(module.weight, before)
    load_into(module, {"embed": same, "head": same.half()}, table)
    assert torch.equal(module.weight, same)
