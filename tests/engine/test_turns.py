"""A turn collates, encodes and embeds what is new, and nothing else; idle conversations keep to their limits."""

import gc
import threading
import weakref
from dataclasses import replace

import pytest
import torch

from polymodal.data.messages import conversation, user
from polymodal.data.processor import Processor
from polymodal.engine.prefix_cache import IdleLimits
from polymodal.errors import ConfigError
from polymodal.generation.feature_cache import ENCODER_BATCH, FeatureCache, PreparedMedia
from polymodal.generation.generate import generate
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.prefix import common_prefix, outside_items
from polymodal.generation.sampling import SamplingOptions
from talking import Talk
from tiny_models import text_model
from tiny_talk import model, picture, processor
from tiny_text import letters_tokenizer

OPTIONS = SamplingOptions(max_tokens=4)


class Counted:
    """Tokens that a model embeds in prompts (not step by step), and how often whole conversations are collated."""

    def __init__(self, network, maker, monkeypatch) -> None:
        self.embedded = self.collated = 0
        embed, collate = network.backbone.embed, maker.collate

        def embedding(ids):
            self.embedded += ids.numel() if ids.shape[1] > 1 else 0
            return embed(ids)

        def collating(rows, **options):
            self.collated += 1
            for row in rows:
                assert all(place.item.values.is_meta for place in row.media_spans), "a picture is copied"
            return collate(rows, **options)

        monkeypatch.setattr(network.backbone, "embed", embedding)
        monkeypatch.setattr(maker, "collate", collating)

    def take(self) -> tuple[int, int]:
        found = self.embedded, self.collated
        self.embedded = self.collated = 0
        return found


class Arranged:
    """Positions that the batch lacks, as of models whose rule reads the whole conversation."""

    def __init__(self, reads_values: bool = False) -> None:
        self.reads_values = reads_values

    def __call__(self, batch):
        if self.reads_values and batch.get("pixel_values") is not None:
            assert float(batch["pixel_values"].sum()) > 0
        ids = batch["input_ids"]
        return {"position_ids": 2 * torch.arange(ids.shape[1])[None].expand(len(ids), -1)}


def without_positions(batch):
    return {name: value for name, value in batch.items() if name != "position_ids"}


def arranged_pair(reads_values: bool = False):
    network, maker = model(), processor()
    network.prepare_inputs, maker.finish = Arranged(reads_values), without_positions
    return network, maker


def fresh(network, maker, messages) -> tuple[int, ...]:
    batch = Processor.collate(maker, [maker.encode(conversation(messages), generate=True)], padding="left")
    return generate(network, batch, OPTIONS, DecodingConstraints(tokenizer=maker.tokenizer))[0].ids


def talk(network, maker, count: Counted) -> None:
    """Three turns with pictures; every turn embeds exactly the prompt tokens that were not there before."""
    chat = Talk(network, maker, OPTIONS)
    messages = []
    for text, seed in (("What is this?", 1), ("And this one here?", 2), ("Once more the first.", 1)):
        messages.append(user(text, picture(seed)))
        row = maker.encode(conversation(messages), generate=True)
        ids = chat.ids(messages)
        embedded, collated = count.take()
        assert embedded == len(row) - chat.cached and (chat.cached > 0) == (len(messages) > 1)
        assert collated == (network.prepare_inputs is not None)
        assert ids == fresh(network, maker, messages)
        count.take()
        messages.append({"role": "assistant", "content": maker.tokenizer.decode(list(ids))})
    assert network.encoders["image"].items == 2 + 1 + 2 + 3, "each once in the chat, and all in every fresh run"


def test_a_turn_embeds_only_what_is_new(monkeypatch) -> None:
    network, maker = model(), processor()
    talk(network, maker, Counted(network, maker, monkeypatch))


def test_positions_of_the_whole_conversation_need_no_picture_again(monkeypatch) -> None:
    network, maker = arranged_pair()
    talk(network, maker, Counted(network, maker, monkeypatch))


def test_rules_that_look_at_values_get_them() -> None:
    network, maker = arranged_pair(reads_values=True)
    chat = Talk(network, maker, OPTIONS)
    messages = [user("one", picture(1)), {"role": "assistant", "content": "a"}, user("two", picture(2))]
    chat.ids(messages[:1])
    assert chat.ids(messages) == fresh(network, maker, messages) and chat.cached


def test_a_prefix_that_ends_within_a_picture_is_cut_before_it() -> None:
    network, maker = model(), processor()
    row = maker.encode([user("some words", picture(1), "more")], generate=True)
    (place,) = row.media_spans
    assert place.end - place.first == 4
    cuts = [outside_items(length, row.media_spans) for length in range(place.first - 1, place.end + 2)]
    assert cuts == [place.first - 1, *[place.first] * 4, place.end, place.end + 1]
    # Two conversations whose ids part within the placeholders of one picture.
    chat = Talk(network, maker, OPTIONS)
    chat.ids([user("some words", picture(1), "more")])
    entry = chat.engine.prefixes._entries[-1]
    entry.cache.truncate(place.first + 2)
    del entry.ids[place.first + 2 :]
    ids = tuple(piece.id for piece in chat.write(row))
    assert chat.cached == place.first
    assert ids == fresh(network, maker, [user("some words", picture(1), "more")])


def test_items_of_one_place_count_all() -> None:
    """Senses that are added up stand at one place: the prefix holds when all of them are the same."""
    row = processor().encode([user("x", picture(1), "y")], generate=True)
    (place,) = row.media_spans
    second = replace(place, item=replace(place.item, key="sound", tokens=0))
    both = replace(row, media_spans=(place, second))
    known = frozenset({(place.first, place.item.key), (place.first, "sound")})
    assert common_prefix(both, row.input_ids, known) == len(row)
    assert common_prefix(row, row.input_ids, known) == place.first
    assert common_prefix(both, row.input_ids, known - {(place.first, "sound")}) == place.first


def test_many_new_items_reach_the_encoder_in_small_batches(monkeypatch) -> None:
    network, maker = model(), processor()
    sizes = []
    encode = network.encode
    monkeypatch.setattr(
        network, "encode", lambda name, batch: sizes.append(len(batch["pixel_values"])) or encode(name, batch)
    )
    spans = maker.encode([user(*map(picture, range(ENCODER_BATCH + 3)))]).media_spans
    found = FeatureCache().features(network, maker, (*spans, spans[0]))["image"]
    assert sizes == [ENCODER_BATCH, 3] and len(found) == ENCODER_BATCH + 4
    assert all(each.untyped_storage().nbytes() == each.nbytes for each in found), "no row holds its batch"


def test_prepared_media_go_with_their_records_and_with_the_limit() -> None:
    maker, one = processor(), 4 * 3 * 4 * 4
    prepared = PreparedMedia(limit_bytes=2 * one)
    items = [picture(seed) for seed in range(3)]
    made = [maker.prepare(item, prepared) for item in items[:2]]
    assert maker.prepare(items[0], prepared) is made[0] and prepared.nbytes == 2 * one
    maker.prepare(items[2], prepared)
    assert len(prepared) == 2 and maker.prepare(items[0], prepared) is made[0]
    del items[0]
    assert len(prepared) == 1 and prepared.nbytes == one
    prepared.clear()
    assert prepared.nbytes == len(prepared) == 0


def talk_of(**limits) -> Talk:
    network = text_model(2, letters_tokenizer().vocab_size, max_length=2000)
    maker = Processor(tokenizer=letters_tokenizer(), template=processor().template)
    return Talk(network, maker, OPTIONS, **limits)


def ask(found: Talk, *texts: str) -> int:
    """Answer a conversation of these user messages, answers between them; the prompt tokens that were known."""
    messages = [user(texts[0])]
    for text in texts[1:]:
        messages += [{"role": "assistant", "content": "x"}, user(text)]
    found.ids(messages)
    return found.cached


def test_each_conversation_finds_its_own_keys_and_values() -> None:
    found = talk_of()
    talks = [("alpha " * 20,), ("beta " * 20,), ("gamma " * 20,)]
    for talk in talks:
        ask(found, *talk)
    assert len(found.engine.prefixes) == 3
    for talk in reversed(talks):
        held = len(found.encode([user(*talk)]))
        assert ask(found, *talk, "go on") >= held - 10


@pytest.mark.parametrize("limits", [{"chats": 2}, {"nbytes": 40_000}])
def test_idle_conversations_keep_to_the_limits(limits) -> None:
    found = talk_of(**limits)
    prefixes = found.engine.prefixes
    for letter in "abcde":
        ask(found, letter * 30)
        assert len(prefixes) <= 2 and prefixes.nbytes <= 40_000
    assert len(prefixes) == 2
    assert 0 < found.engine.nbytes <= 40_000, "rows that have ended hold nothing"
    assert ask(found, "d" * 30, "go on") > 30
    assert ask(found, "a" * 30, "go on") < 30
    found.client.clear()
    assert len(prefixes) == found.engine.nbytes == 0


def test_a_conversation_above_the_limit_is_not_kept() -> None:
    found = talk_of(nbytes=40_000)
    ask(found, "a" * 30)
    ask(found, "b" * 300)
    assert len(found.engine.prefixes) == 1 and found.engine.prefixes.nbytes <= 40_000
    found.client.limit(IdleLimits(nbytes=0))
    assert len(found.engine.prefixes) == 0
    ask(found, "a" * 30)
    assert len(found.engine.prefixes) == 0
    with pytest.raises(ConfigError, match="idle limits"):
        IdleLimits(chats=-1)


@pytest.mark.parametrize("end", ["close", "forget"])
def test_an_abandoned_answer_frees_its_row_and_serves_the_next(end: str) -> None:
    found = talk_of()
    encoded = found.encode("tell me")
    pieces = found.write(encoded)
    next(pieces), next(pieces)
    rows = weakref.ref(found.engine._shared.cache._buffers)
    assert rows() is not None and found.engine.running == 1
    if end == "close":
        pieces.close()
    del pieces
    gc.collect()
    assert rows() is None and not found.engine.busy and found.engine.running == 0
    assert tuple(piece.id for piece in found.write(encoded)) == talk_of().ids("tell me")
    assert found.cached == len(encoded) - 1


def test_changed_weights_drop_all_that_was_computed() -> None:
    found = talk_of()
    ask(found, "a" * 30)
    with torch.no_grad():
        found.engine.model.backbone.norm.weight.mul_(2)
    assert ask(found, "a" * 30) == 0
    pieces = found.write(found.encode("b" * 30))
    next(pieces)
    with torch.no_grad():
        found.engine.model.backbone.norm.weight.mul_(2)
    ask(found, "c")  # somebody else notices
    list(pieces)
    assert ask(found, "b" * 30) < 30, "what old weights computed is not kept when the answer ends later"


def test_conversations_of_several_threads_answer_as_alone() -> None:
    found = talk_of(chats=2)
    texts = [letter * 20 for letter in "abcdef"]
    alone = {text: Talk(found.engine.model, found.engine.processor).ids(text, max_tokens=12) for text in texts}
    results: dict[tuple[str, int], tuple[int, ...]] = {}

    def work(text: str) -> None:
        for number in range(3):
            pieces = found.write(found.encode(text), max_tokens=12)
            results[text, number] = tuple(piece.id for piece in pieces)

    threads = [threading.Thread(target=work, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert len(results) == 18 and all(ids == alone[text] for (text, _), ids in results.items())
    assert len(found.engine.prefixes) <= 2 and not found.engine.busy


def test_an_interrupt_ends_what_runs_and_keeps_what_was_computed(monkeypatch) -> None:
    """Ctrl-C in the middle of a forward: the next turn begins where the last finished one ended."""
    found = talk_of()
    first = found.ids("a" * 40)
    embed = found.engine.model.backbone.embed
    calls = iter([None, None, KeyboardInterrupt])

    def interrupted(ids):
        if (problem := next(calls, None)) is not None:
            raise problem
        return embed(ids)

    other = found.write(found.encode("b"))
    next(other)
    monkeypatch.setattr(found.engine.model.backbone, "embed", interrupted)
    pieces = found.write(found.encode("c" * 30))
    with pytest.raises(KeyboardInterrupt):
        list(pieces)
    with pytest.raises(KeyboardInterrupt):  # it was in the same step
        list(other)
    monkeypatch.undo()
    assert not found.engine.busy and found.engine.running == 0
    assert found.ids("a" * 40) == first and found.cached >= 40


def test_a_step_that_fails_ends_all_that_runs_and_nothing_later(monkeypatch) -> None:
    found = talk_of()
    first, pieces = found.ids("a" * 40), found.write(found.encode("b"))
    next(pieces)
    monkeypatch.setattr(found.engine._shared, "step", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(pieces)
    assert found.ids("a" * 40) == first


def test_ids_of_a_generation_config_end_answers_of_a_chat_too() -> None:
    plain = talk_of()
    written = plain.ids("alpha")
    assert len(written) == OPTIONS.max_tokens
    ended = list(
        Talk(plain.engine.model, plain.engine.processor, OPTIONS, ends=[written[1]]).write(plain.encode("alpha"))
    )
    assert tuple(piece.id for piece in ended) == written[: len(ended)]
    assert ended[-1].id == written[1] and ended[-1].finish_reason == "stop"
