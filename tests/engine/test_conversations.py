"""Conversations: later turns reuse what was computed, encode no picture twice, and answer as a fresh run does."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.data.media import Audio
from polymodal.data.messages import user
from polymodal.data.processor import Processor
from polymodal.data.template import chatml
from polymodal.errors import ConfigError, PromptError
from polymodal.generation.feature_cache import FeatureCache
from polymodal.generation.generate import generate
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions
from talking import Talk
from tiny_models import text_model
from tiny_talk import TOKENIZER, model, picture, processor

OPTIONS = SamplingOptions(max_tokens=12, temperature=1.0, seed=3)


def fresh(network, messages, options=OPTIONS) -> tuple[int, ...]:
    """The answer of an empty cache, through `generate`."""
    batch = processor()(messages, generate=True)
    return generate(network, batch, options, DecodingConstraints(tokenizer=TOKENIZER))[0].ids


def test_second_turn_reuses_the_first_and_encodes_no_picture_again() -> None:
    network, messages = model(), []
    chat = Talk(network, processor(), OPTIONS)
    first = chat.say(messages, "What is this?", picture(1))
    assert chat.cached == 0 and network.encoders["image"].items == 1
    held = len(chat.engine.prefixes._entries[-1].ids)
    second = chat.say(messages, "And this?", picture(2))
    assert network.encoders["image"].items == 2
    third = chat.say(messages, "the user is", picture(1))
    assert network.encoders["image"].items == 2
    assert chat.cached > held
    assert [first, second, third] == [fresh(network, messages[:n]) for n in (1, 3, 5)]


@given(
    st.lists(st.tuples(st.sampled_from(["a", "the", "in user"]), st.integers(0, 2)), min_size=1, max_size=4), st.data()
)
@settings(max_examples=25, deadline=None)
def test_any_order_of_conversations_equals_fresh_runs(turns, data) -> None:
    """The same engine answers conversations that share a prefix, diverge, shrink or swap a picture."""
    network = model(1)
    chat = Talk(network, processor(), SamplingOptions(max_tokens=5))
    pictures = [picture(i) for i in range(3)]
    messages = []
    for text, number in turns:
        messages += [user(text, pictures[number], text), {"role": "assistant", "content": text}]
    for _ in range(3):
        cut = 2 * data.draw(st.integers(0, len(turns) - 1)) + 1
        given_messages = list(messages[:cut])
        if data.draw(st.booleans()):
            given_messages[0] = user(turns[0][0], pictures[data.draw(st.integers(0, 2))], turns[0][0])
        assert chat.ids(given_messages) == fresh(network, given_messages, SamplingOptions(max_tokens=5))


def test_another_picture_cuts_the_prefix_at_its_place() -> None:
    network = model()
    chat = Talk(network, processor(), OPTIONS)
    chat.ids([user("same words", picture(1), "behind")])
    row = processor().encode([user("same words", picture(2), "behind")], generate=True)
    ids = chat.ids([user("same words", picture(2), "behind")])
    assert chat.cached == row.media_spans[0].first
    assert ids == fresh(network, [user("same words", picture(2), "behind")])
    chat.ids([user("same words", picture(2), "behind")])
    assert chat.cached == len(row) - 1


def test_an_abandoned_answer_does_no_harm() -> None:
    network = model()
    chat = Talk(network, processor(), OPTIONS)
    asked = [user("tell me", picture(1))]
    pieces = chat.write(chat.encode(asked))
    next(pieces), next(pieces)
    pieces.close()
    assert chat.ids(asked) == fresh(network, asked) and chat.cached > 0
    with pytest.raises(PromptError, match="takes text, image"):
        chat.encode([user(Audio("x.wav"))])


def test_options_of_one_turn_and_rows_that_grow() -> None:
    network = text_model(2, TOKENIZER.vocab_size, max_length=2000)
    maker = Processor(tokenizer=TOKENIZER, template=chatml(default_system=None))
    chat, messages = Talk(network, maker), [{"role": "system", "content": "You sing"}]
    chat.say(messages, "a", max_tokens=3)
    for text, changes in (("b" * 300, {"temperature": 1.0, "seed": 1}), ("c", {"beams": 2})):
        ids = chat.say(messages, text, max_tokens=4, **changes)
        assert chat.cached > 10
        options = SamplingOptions(max_tokens=4, **changes)
        batch = maker(messages[:-1], generate=True)
        assert ids == generate(network, batch, options, chat.engine.constraints)[0].ids
    chat.client.clear()
    chat.ids("c", max_tokens=2)
    assert chat.cached == 0


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
        Talk(model(), processor("<file_sep>"))
