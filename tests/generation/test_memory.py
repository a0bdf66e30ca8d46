"""What generation leaves behind: nothing for a garbage collector, and no more after 200 turns than after 40."""

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch

from polymodal.data.messages import user
from polymodal.generation.generate import generate
from polymodal.generation.sampling import SamplingOptions
from polymodal.nn.cache import KVCache
from talking import Talk
from tiny_talk import model, picture, processor


@pytest.fixture(autouse=True)
def no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def live_bytes() -> int:
    """Bytes of all tensors there are; nothing is collected first."""
    return sum(each.nbytes for each in gc.get_objects() if type(each) is torch.Tensor)


def test_a_dropped_cache_is_freed_at_once() -> None:
    cache = KVCache.allocate(2, 1, 1, 4, 8)
    cache.layer(0).update(torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4))
    cache.advance(3)
    parts = [
        weakref.ref(cache),
        weakref.ref(cache.layer(1)),
        weakref.ref(cache.layer(0).update(*[torch.zeros(1, 1, 0, 4)] * 2)[0]._base),
    ]
    assert all(part() is not None for part in parts)
    del cache
    assert [part() for part in parts] == [None, None, None]


@pytest.mark.parametrize("options", [SamplingOptions(max_tokens=3), SamplingOptions(max_tokens=3, beams=2)])
def test_generation_frees_its_cache_when_it_returns(monkeypatch, options) -> None:
    network, maker = model(), processor()
    made: list[weakref.ref[KVCache]] = []
    allocate = network.backbone.new_cache

    def new_cache(*sizes: int) -> KVCache:
        cache = allocate(*sizes)
        made.append(weakref.ref(cache))
        return cache

    monkeypatch.setattr(network.backbone, "new_cache", new_cache)
    for _ in range(2):
        generate(network, maker([user("Look.", picture(1))], generate=True), options)
    assert len(made) >= 2 and all(each() is None for each in made)


def test_memory_is_flat_over_200_turns() -> None:
    network, maker = model(), processor()
    chat = Talk(network, maker, SamplingOptions(max_tokens=3), chats=2)
    chat.engine.features._limit = 4096
    history: list = []
    seen: list[int] = []
    for turn in range(200):
        history = [*history[-4:], user(f"Turn {turn % 10}?", picture(turn))]
        ids = list(chat.ids(history))
        history.append({"role": "assistant", "content": maker.tokenizer.decode(ids)})
        if turn % 40 == 39:
            seen.append(live_bytes())
    assert max(seen) - min(seen) <= 4096, seen
