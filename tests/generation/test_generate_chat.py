"""Conversations: later turns reuse what was computed, encode no picture twice, and answer as a fresh run does."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.data.messages import user
from polymodal.data.processor import Processor
from polymodal.data.template import chatml
from polymodal.errors import ConfigError, PromptError
from polymodal.generation.chat import Chat, FeatureCache
from polymodal.generation.generate import generate
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions
from tiny_models import text_model
from tiny_talk import TOKENIZER, model, picture, processor

OPTIONS = SamplingOptions(max_tokens=12, temperature=1.0, seed=3)


def fresh(network, messages, options=OPTIONS) -> tuple[int, ...]:
    """The answer of an empty cache, through `generate`."""
    batch = processor()(messages, generate=True)
    return generate(network, batch, options, DecodingConstraints(tokenizer=TOKENIZER))[0].ids


def test_second_turn_reuses_the_first_and_encodes_no_picture_again() -> None:
    network = model()
    chat = Chat(network, processor(), options=OPTIONS)
    first = chat.say("What is this?", picture(1))
    assert chat.reused == 0 and network.encoders["image"].items == 1
    assert first.counts["prompt"] == len(processor().encode(chat.messages[:1], generate=True))
    held = len(chat._ids)
    second = chat.say("And this?", picture(2))
    assert network.encoders["image"].items == 2
    third = chat.say("the user is", picture(1))
    assert network.encoders["image"].items == 2
    assert chat.reused > held
    expected = [fresh(network, chat.messages[:n]) for n in (1, 3, 5)]
    assert [first.ids, second.ids, third.ids] == expected
    assert [message.role for message in chat.messages] == ["user", "assistant"] * 3
    assert chat.messages[1].text == first.text


@given(
    st.lists(st.tuples(st.sampled_from(["a", "the", "in user"]), st.integers(0, 2)), min_size=1, max_size=4), st.data()
)
@settings(max_examples=25, deadline=None)
def test_any_order_of_conversations_equals_fresh_runs(turns, data) -> None:
    """The same Chat answers conversations that share a prefix, diverge, shrink or swap a picture."""
    network = model(1)
    chat = Chat(network, processor(), options=SamplingOptions(max_tokens=5))
    pictures = [picture(i) for i in range(3)]
    messages = []
    for text, number in turns:
        messages += [user(text, pictures[number], text), {"role": "assistant", "content": text}]
    for _ in range(3):
        cut = 2 * data.draw(st.integers(0, len(turns) - 1)) + 1
        given_messages = list(messages[:cut])
        if data.draw(st.booleans()):
            given_messages[0] = user(turns[0][0], pictures[data.draw(st.integers(0, 2))], turns[0][0])
        ids = tuple(piece.id for piece in chat.answer(given_messages))
        assert ids == fresh(network, given_messages, SamplingOptions(max_tokens=5))


def test_another_picture_cuts_the_prefix_at_its_place() -> None:
    network = model()
    chat = Chat(network, processor(), options=OPTIONS)
    list(chat.answer([user("same words", picture(1), "behind")]))
    row = processor().encode([user("same words", picture(2), "behind")], generate=True)
    ids = tuple(piece.id for piece in chat.answer([user("same words", picture(2), "behind")]))
    assert chat.reused == row.media_spans[0].first
    assert ids == fresh(network, [user("same words", picture(2), "behind")])
    list(chat.answer([user("same words", picture(2), "behind")]))
    assert chat.reused == len(row) - 1


def test_an_abandoned_answer_does_no_harm() -> None:
    network = model()
    chat = Chat(network, processor(), options=OPTIONS)
    pieces = chat.stream("tell me", picture(1))
    next(pieces), next(pieces)
    pieces.close()
    assert chat.messages == []
    answer = chat.say("tell me", picture(1))
    assert chat.reused > 0 and answer.ids == fresh(network, chat.messages[:1])
    with pytest.raises(PromptError, match="takes text, image"):
        from polymodal.data.media import Audio

        chat.say(Audio("x.wav"))
    assert len(chat.messages) == 2
    assert chat.say("go on").ids == fresh(network, chat.messages[:3])


def test_options_of_one_turn_and_a_cache_that_grows() -> None:
    network = text_model(2, TOKENIZER.vocab_size, max_length=2000)
    chat = Chat(network, Processor(tokenizer=TOKENIZER, template=chatml(default_system=None)), system="You sing")
    chat.say("a", max_tokens=3)
    small = chat._cache
    long = chat.say("b" * 300, max_tokens=4, temperature=1.0, seed=1)
    assert chat._cache is not small and chat.reused > 10
    batch = chat.processor(chat.messages[:-1], generate=True)
    options = SamplingOptions(max_tokens=4, temperature=1.0, seed=1)
    assert long.ids == generate(network, batch, options, chat.constraints)[0].ids
    assert chat.messages[0].role == "system"
    with pytest.raises(ConfigError, match="beam"):
        chat.say("x", beams=2)
    chat.reset()
    chat.say("c", max_tokens=2)
    assert chat.reused == 0


def test_feature_cache_forgets_the_longest_unused() -> None:
    network, maker = model(), processor()
    cache = FeatureCache(limit_bytes=2 * 4 * 32 * 4)  # two pictures of 4 features, 32 wide, float32

    def ask(*seeds: int) -> int:
        before = network.encoders["image"].items
        found = cache.features(network, maker, maker.encode([user(*map(picture, seeds))]).media_spans)
        with torch.no_grad():
            pixels = torch.stack([torch.from_numpy(picture(s).source) for s in seeds])
            expected = network.encode("image", {"pixel_values": pixels})
        network.encoders["image"].items -= len(seeds)
        torch.testing.assert_close(torch.stack(found["image"]), expected, atol=1e-6, rtol=0)
        return network.encoders["image"].items - before

    assert ask(1, 2, 1) == 2
    assert ask(1) == 0
    assert ask(3) == 1 and len(cache) == 2
    assert ask(1) == 0
    assert ask(2) == 1


def test_a_processor_for_another_placeholder_is_refused() -> None:
    with pytest.raises(ConfigError, match="placeholders"):
        Chat(model(), processor("<file_sep>"))
