"""Several threads ask one model at once: each gets the answer that it would get alone, with its own seconds."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy
import pytest

import polymodal as pm
from polymodal.data.media import Audio, Image

TINY = str(Path(__file__).parents[1] / "cli" / "tiny_system.py")
OPTIONS = {"max_tokens": 3, "temperature": 1.0}


def photo(seed: int) -> Image:
    return pm.image(numpy.random.default_rng(seed).integers(0, 255, (20, 20, 3), dtype=numpy.uint8))


def sound(seed: int) -> Audio:
    return pm.audio((numpy.random.default_rng(seed).uniform(-1, 1, 800).astype("float32"), 8000))


@pytest.fixture(scope="module")
def model():
    return pm.load(TINY)


def ask(model, seed: int) -> tuple[Any, ...]:
    """One of each way to ask, and how the seconds of `chat` compare with those that went by."""
    begin = time.perf_counter()
    reply = model.chat("What?", photo(seed % 7), seed=seed, **OPTIONS)
    passed = time.perf_counter() - begin
    spent = sum(seconds for phase, seconds in reply.seconds.items() if phase != "load")
    assert 0 < spent <= passed and all(seconds >= 0 for seconds in reply.seconds.values())
    words = model.chat(f"Say {seed}", seed=seed, **OPTIONS)
    many = model.chat_batch(["Hi", (photo(seed), "who?")], seed=seed, **OPTIONS)
    ranked = model.classify(photo(seed), ["a", "b", "c"])
    return (
        reply.text,
        reply.tokens,
        words.text,
        [each.text for each in many],
        [each.label for each in ranked],
        model.transcribe(sound(seed)).text,
        model.embed([photo(seed), pm.text("b")]).tolist(),
    )


def test_threads_do_not_meet(model) -> None:
    alone = [ask(pm.load(TINY), seed) for seed in range(24)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda seed: ask(model, seed), range(24)))
    assert together == alone


def test_a_model_of_its_own_for_text_is_opened_once(monkeypatch) -> None:
    model, opened = pm.load(TINY), []

    def text() -> Any:
        opened.append(1)
        time.sleep(0.05)
        return pm.load(TINY).module

    object.__setattr__(model._parts, "text", text)
    with ThreadPoolExecutor(4) as pool:
        replies = list(pool.map(lambda _: model.chat("Hi", max_tokens=2).text, range(8)))
    assert len(opened) == 1 and len(set(replies)) == 1
