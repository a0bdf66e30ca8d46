"""embed and classify: real batches of one kind, rows as each alone, and class vectors that are made once."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from polymodal.data.media import Audio, Image, Text
from polymodal.errors import ConfigError, PromptError
from polymodal.models.dual_encoder import DualEncoder
from polymodal.pipelines.batches import in_batches
from polymodal.pipelines.classification import scorer
from polymodal.pipelines.embedding import embedder
from polymodal.pipelines.vector_cache import VectorCache
from polymodal.pipelines.zero_shot import SENTENCES, ZeroShot

WIDTH = 6


class Pictures(nn.Module):
    """pixel_values [N, 3, 4, 4] -> [N, E]; keeps the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(48, WIDTH)
        self.sizes: list[int] = []

    def joint(self, pixel_values):
        self.sizes.append(len(pixel_values))
        return self.proj(pixel_values.flatten(1))


class Words(nn.Module):
    """input_ids [N, T] -> the mean of their embeddings up to the end token, 1."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(200, WIDTH)
        self.sizes: list[int] = []

    def joint(self, input_ids):
        self.sizes.append(len(input_ids))
        real = ((input_ids == 1).cumsum(-1) <= 1).float()[..., None]
        return (self.table(input_ids) * real).sum(1) / real.sum(1)


@pytest.fixture
def space() -> ZeroShot:
    torch.manual_seed(0)
    model = DualEncoder({"image": Pictures(), "text": Words()})
    return ZeroShot(model, pixels, lambda text: [*map(ord, text), 1], templates=("a {}.", "the {}", "{} there"))


def pixels(image: Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.picture, np.float32)).permute(2, 0, 1) / 255


def picture(seed: int) -> Image:
    return Image(np.random.default_rng(seed).integers(0, 255, (4, 4, 3), dtype=np.uint8))


kinds = st.lists(st.sampled_from("itas"), min_size=1, max_size=20)


@given(kinds, st.integers(1, 6))
@settings(max_examples=60, deadline=None)
def test_rows_come_in_the_items_order_from_batches_of_one_kind(names, size) -> None:
    made = {"i": lambda n: Image(n), "t": lambda n: Text(str(n)), "a": lambda n: Audio(n), "s": str}
    items = [made[name](number) for number, name in enumerate(names)]
    batches = []

    def encode(some):
        batches.append(len(some))
        assert len({type(item) for item in some}) == 1 and len(some) <= size
        return torch.tensor([[float(item.text if isinstance(item, Text) else item.source)] for item in some])

    assert in_batches(iter(items), encode, size)[:, 0].tolist() == list(range(len(items)))
    counts = [sum(name in group for name in names) for group in ("i", "ts", "a")]
    assert len(batches) == sum(-(-count // size) for count in counts)


def test_an_item_can_go_when_its_batch_is_done() -> None:
    alive: set[int] = set()

    class Item:
        def __init__(self, number: int) -> None:
            self.number = number
            alive.add(number)

        def __del__(self) -> None:
            alive.discard(self.number)

    most = []

    def encode(some):
        most.append(len(alive))
        return torch.zeros(len(some), 1)

    in_batches((Item(number) for number in range(12)), encode, 4)
    assert most == [12, 8, 4]
    with pytest.raises(ConfigError, match="batch_size"):
        in_batches([1], encode, 0)


def test_zero_shot_rows_are_those_of_each_item_alone(space: ZeroShot) -> None:
    items = [picture(0), "a dog", picture(1), Text("a long sentence about nothing"), picture(2)]
    together = space.embed(items)
    for sizes, expected in ((space.model.encoders["image"].sizes, [3]), (space.model.encoders["text"].sizes, [2])):
        assert sizes == expected
    for row, item in zip(together, items, strict=True):
        torch.testing.assert_close(space.embed([item])[0], row, atol=1e-6, rtol=0)
    labels = ["cat", "a red dog", "x"]
    table = space.score([picture(seed) for seed in range(4)], labels)
    assert table.shape == (4, 3) and torch.allclose(table.sum(-1), torch.ones(4))
    for seed in range(4):
        torch.testing.assert_close(space.score([picture(seed)], labels)[0], table[seed], atol=1e-6, rtol=0)
    with pytest.raises(PromptError, match="classifies pictures; found text"):
        space.score([picture(0), Text("x")], labels)


def test_class_vectors_are_made_once(space: ZeroShot) -> None:
    read = space.model.encoders["text"].sizes
    first = space.classes(["cat", "dog"])
    assert read == [6] and torch.equal(space.classes(["dog", "cat"]), first.flip(0)) and read == [6]
    space.classes(["cat", "bird"])
    assert read == [6, 3]
    space.templates = ("only {}",)
    assert not torch.allclose(space.classes(["cat"])[0], first[0]) and read == [6, 3, 1]
    space.templates = ("a {}.", "the {}", "{} there")
    assert torch.equal(space.classes(["cat"])[0], first[0]) and read == [6, 3, 1]
    many = [f"label {number}" for number in range(SENTENCES)]
    space.classes(many)
    assert read[3:] == [SENTENCES] * 3
    with torch.no_grad():
        space.model.encoders["text"].table.weight[ord("c")] += 1
    assert not torch.allclose(space.classes(["cat"])[0], first[0]) and read[-1] == 3


def test_kept_vectors_keep_to_their_limit() -> None:
    kept = VectorCache(nn.Linear(1, 1), limit_bytes=3 * 2 * 4)
    asked: list[list[str]] = []

    def make(keys):
        asked.append(list(keys))
        return torch.tensor([[ord(key), 0.0] for key in keys])

    def of(keys: str) -> str:
        before = len(asked)
        assert kept.of(list(keys), make)[:, 0].tolist() == list(map(ord, keys))
        return "".join(asked[before]) if len(asked) > before else ""

    assert of("aab") == "ab" and of("ba") == ""
    assert of("cd") == "cd" and len(kept) == 3 and kept.nbytes == 24
    assert of("a") == "", "used last before c and d"
    assert of("b") == "b"
    assert of("abcdef") == "cdef" or len(kept) == 3
    threads = [threading.Thread(target=of, args=(keys,)) for keys in ("abc", "def", "fed") * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(kept) == 3 and kept.nbytes == 24


def test_a_classifier_takes_many_pictures() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(48, 3)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.sizes = linear, []

        def forward(self, pixel_values):
            from polymodal.models.output import Output

            self.sizes.append(len(pixel_values))
            return Output(logits=self.linear(pixel_values.flatten(1)))

    model = Model()
    score = scorer(model, pixels, ["a", "b", "c"])
    pictures = [picture(seed) for seed in range(5)]
    table = score(pictures, ["c", "a"])
    assert model.sizes == [5] and table.shape == (5, 2)
    for one, row in zip(pictures, table, strict=True):
        torch.testing.assert_close(score([one], ["c", "a"])[0], row, atol=1e-6, rtol=0)
    with pytest.raises(PromptError, match="found audio"):
        score([pictures[0], Audio("x")], ["a"])
    with pytest.raises(ConfigError, match="knows 3 labels"):
        score(pictures, ["a", "d"])


def test_an_embedder_of_many_encoders_batches_each() -> None:
    torch.manual_seed(0)
    calls: list[tuple[str, int]] = []

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(200, WIDTH)
            self.proj = nn.Linear(3, WIDTH)

        def features(self, **batch):
            ((name, values),) = batch.items()
            calls.append((name, len(values)))
            return {name: self.table(values).mean(1) if name == "text" else self.proj(values.mean((-1, -2)))}

    embed = embedder(Model(), lambda text: list(map(ord, text)), length=20)
    items = ["one", picture(1), "another", picture(2)]
    together = embed(items)
    assert calls == [("text", 2), ("vision", 2)] and torch.allclose(together.norm(dim=-1), torch.ones(4))
    for item, row in zip(items, together, strict=True):
        torch.testing.assert_close(embed([item])[0], row, atol=1e-6, rtol=0)
