"""Many conversations, items and rows at once: what each gives alone, in batches, within stated memory."""

import gc
import weakref
from pathlib import Path

import numpy
import pytest
import torch

import polymodal as pm
from polymodal.engine.prefix_cache import IdleLimits
from polymodal.errors import ConfigError, MediaError, PromptError, UnknownName
from polymodal.generation.sampling import SamplingOptions

TINY = str(Path(__file__).parents[1] / "cli" / "tiny_system.py")


@pytest.fixture
def model():
    return pm.load(TINY)


def picture(seed: int):
    return pm.image(numpy.random.default_rng(seed).integers(0, 255, (20, 20, 3), dtype=numpy.uint8))


def counted(model, monkeypatch) -> list[int]:
    """Sizes of the batches that reach the picture encoder."""
    sizes: list[int] = []
    encoder = model.module.encoders["image"]
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda values: sizes.append(len(values)) or forward(values))
    return sizes


def test_conversations_of_a_batch_answer_as_alone(model, monkeypatch):
    cat, dog = picture(1), picture(2)
    talks = [
        "what?",
        ("what is it?", cat),
        [
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "hi"},
            {"role": "user", "content": "?"},
        ],
        [cat, "and this?", dog],
        cat,
    ]
    alone = [model.chat(*given, max_tokens=7) if isinstance(given, tuple) else
             model.chat(given, max_tokens=7) if not isinstance(given, list) or isinstance(given[0], dict) else
             model.chat(*given, max_tokens=7) for given in talks]  # fmt: skip
    model.clear_caches()
    sizes = counted(model, monkeypatch)
    for size in (8, 2):
        found = model.chat_batch(talks, max_tokens=7, batch_size=size)
        assert [(each.text, each.tokens, each.finish_reason) for each in found] == [
            (each.text, each.tokens, each.finish_reason) for each in alone
        ]
    assert sizes == [2], "each picture once, both together"
    assert set(found[0].seconds) == {"load", "decode", "encode", "prefill", "generate"}


def test_options_of_each_conversation(model):
    options = [SamplingOptions(max_tokens=9, temperature=1.0, seed=3), SamplingOptions(max_tokens=2, logprobs=0)]
    found = model.chat_batch(["one", "another"], options=options)
    for text, option, each in zip(("one", "another"), options, found, strict=True):
        assert model.chat(text, options=option).text == each.text
    assert found[0].logprobs == () and len(found[1].logprobs) == found[1].tokens["generated"]
    beams = model.chat_batch(["one", "another"], beams=2, max_tokens=4)
    assert [each.text for each in beams] == [model.chat(t, beams=2, max_tokens=4).text for t in ("one", "another")]
    assert model.chat_batch([]) == []


def test_mistakes_name_the_conversation(model, tmp_path):
    with pytest.raises(PromptError, match=r"several at once are for model.chat_batch"):
        model.chat([["one"], ["two"]])
    with pytest.raises(PromptError, match=r"conversations\[1\]: chat needs something"):
        model.chat_batch(["one", ""])
    with pytest.raises(PromptError, match=r"conversations\[1\]: .*512"):
        model.chat_batch(["one", "a" * 600])
    (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(MediaError, match=r"conversations\[0\]: "):
        model.chat_batch([pm.image(tmp_path / "bad.png")])
    with pytest.raises(PromptError, match="expected a list of conversations, found str"):
        model.chat_batch("one")
    with pytest.raises(ConfigError, match="1 options for 2 conversations"):
        model.chat_batch(["a", "b"], options=[SamplingOptions()])
    with pytest.raises(ConfigError, match="batch_size"):
        model.chat_batch(["a"], batch_size=0)
    with pytest.raises(UnknownName, match="temperature"):
        model.chat_batch(["a"], temprature=1)


def test_lists_of_items_and_one(model):
    items = [picture(1), pm.text("cat"), picture(2)]
    table = model.classify(items, ["cat", "dog", "owl"])
    for item, row in zip(items, table, strict=True):
        alone = model.classify(item, ["cat", "dog", "owl"])
        assert [each.label for each in row] == [each.label for each in alone]
        assert [each.probability for each in row] == pytest.approx([each.probability for each in alone], abs=1e-5)
    for size in (1, 2, 32):
        vectors = model.embed(items, batch_size=size)
        for item, row in zip(items, vectors, strict=True):
            torch.testing.assert_close(model.embed([item])[0], row, atol=1e-6, rtol=0)
    for nothing in ([], ()):
        with pytest.raises(ConfigError, match="at least one item"):
            model.classify(nothing, ["a", "b"])


def test_generate_takes_rows_of_unequal_length(model):
    rows = [[5, 6, 7], [8], torch.tensor([9, 10])]
    found = model.generate(input_ids=rows, max_new_tokens=4, pad_token_id=3)
    assert found[:, :3].tolist() == [[5, 6, 7], [3, 3, 8], [3, 9, 10]]
    for row, ids in zip(rows, found, strict=True):
        alone = model.generate(input_ids=torch.as_tensor(row)[None], max_new_tokens=4)
        assert alone[0, -4:].tolist() == ids[-4:].tolist()
    for wrong in ([[1], []], [], [["a"]], [[[1]]]):
        with pytest.raises(PromptError, match="input_ids"):
            model.generate(input_ids=wrong)
    with pytest.raises(ConfigError, match="leave it out"):
        model.generate(input_ids=[[1], [2, 3]], attention_mask=torch.ones(2, 2))


def test_each_conversation_counts_its_own_encoding(model, monkeypatch):
    """Two at once: one waits with its picture encoded while the other encodes one; nothing listens on the model."""
    encoder = model.module.encoders["image"]
    forward = encoder.forward

    def slow(values):
        hooks = [part._forward_hooks or part._forward_pre_hooks for part in model.module.modules()]
        assert not any(hooks)
        end = torch.ones(()) + sum(1 for _ in range(200_000)) * 0
        return forward(values) * end

    monkeypatch.setattr(encoder, "forward", slow)
    plain, seeing = model.stream("what?", max_tokens=6), model.stream("what?", picture(1), max_tokens=6)
    first = iter(plain)
    next(first, None)
    list(seeing)
    list(first)
    assert seeing.reply.seconds["encode"] > 0.002 and plain.reply.seconds["encode"] == 0


def test_finished_conversations_keep_to_the_limits_of_the_model(model):
    streams = [model.stream(letter * 40, max_tokens=4) for letter in "abcdefghijkl"]
    running = [iter(stream) for stream in streams]
    for pieces in running:
        next(pieces, None)
    for pieces in running:
        list(pieces)
    engine = model.client(model.module).engine
    assert len(engine.prefixes) == IdleLimits().chats == 8
    model.limits = IdleLimits(chats=3)
    model.chat("m" * 40, max_tokens=4)
    assert len(engine.prefixes) == 3
    assert 0 < engine.nbytes <= 3 * 2 * 2 * 2 * 8 * 256 * 4
    model.limits = IdleLimits(nbytes=0)
    model.chat("n" * 40, max_tokens=4)
    assert len(engine.prefixes) == engine.nbytes == 0
    model.limits = IdleLimits()
    model.chat(picture(1), "what?", max_tokens=4)
    assert engine.nbytes > engine.features.nbytes > 0
    model.clear_caches()
    assert engine.nbytes == 0


def test_an_abandoned_stream_is_freed(model):
    pieces = iter(model.stream("tell me", max_tokens=50))
    next(pieces)
    engine = model.client(model.module).engine
    rows = weakref.ref(engine._shared.cache._buffers)
    assert engine.running == 1 and engine.nbytes > 0
    del pieces
    gc.collect()
    assert rows() is None and engine.running == 0 and not engine.busy


def test_adapters_and_moves_drop_what_was_computed(model):
    model.chat("what?", max_tokens=4)
    model.to(dtype=torch.float64)
    assert model.chat("what?", max_tokens=4, logprobs=0).logprobs
    (entry,) = model.client(model.module).engine.prefixes._entries
    assert {tensor.dtype for pair in entry.cache.tensors() for tensor in pair} == {torch.float64}
