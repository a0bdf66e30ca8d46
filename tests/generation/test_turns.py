"""A turn collates, encodes and embeds what is new, and nothing else; idle conversations keep to their limits."""

import gc
import threading
import weakref
from dataclasses import replace

import pytest
import torch

from polymodal.data.messages import conversation, user
from polymodal.data.processor import Processor
from polymodal.errors import ConfigError
from polymodal.generation.chat import Chat
from polymodal.generation.decode_state import DecodeState
from polymodal.generation.feature_cache import ENCODER_BATCH, FeatureCache, PreparedMedia
from polymodal.generation.generate import generate
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.prefix import common_prefix, outside_items
from polymodal.generation.sampling import SamplingOptions
from polymodal.generation.sessions import IdleLimits, Sessions
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
    chat = Chat(network, maker, options=OPTIONS)
    messages = []
    for text, seed in (("What is this?", 1), ("And this one here?", 2), ("Once more the first.", 1)):
        messages.append(user(text, picture(seed)))
        row = maker.encode(conversation(messages), generate=True)
        ids = [piece.id for piece in chat.answer(messages)]
        embedded, collated = count.take()
        assert embedded == len(row) - chat.reused and (chat.reused > 0) == (len(messages) > 1)
        assert collated == (network.prepare_inputs is not None)
        assert tuple(ids) == fresh(network, maker, messages)
        count.take()
        messages.append({"role": "assistant", "content": chat.processor.tokenizer.decode(ids)})
    assert network.encoders["image"].items == 2 + 1 + 2 + 3, "each once in the chat, and all in every fresh run"


def test_a_turn_embeds_only_what_is_new(monkeypatch) -> None:
    network, maker = model(), processor()
    talk(network, maker, Counted(network, maker, monkeypatch))


def test_positions_of_the_whole_conversation_need_no_picture_again(monkeypatch) -> None:
    network, maker = arranged_pair()
    talk(network, maker, Counted(network, maker, monkeypatch))


def test_rules_that_look_at_values_get_them() -> None:
    network, maker = arranged_pair(reads_values=True)
    chat = Chat(network, maker, options=OPTIONS)
    messages = [user("one", picture(1)), {"role": "assistant", "content": "a"}, user("two", picture(2))]
    list(chat.answer(messages[:1]))
    assert tuple(piece.id for piece in chat.answer(messages)) == fresh(network, maker, messages) and chat.reused


def test_a_prefix_that_ends_within_a_picture_is_cut_before_it() -> None:
    network, maker = model(), processor()
    row = maker.encode([user("some words", picture(1), "more")], generate=True)
    (place,) = row.media_spans
    assert place.end - place.first == 4
    cuts = [outside_items(length, row.media_spans) for length in range(place.first - 1, place.end + 2)]
    assert cuts == [place.first - 1, *[place.first] * 4, place.end, place.end + 1]
    # As after an answer that was broken off while the prompt was read in pieces.
    chat = Chat(network, maker, options=OPTIONS)
    list(chat.write(row, OPTIONS))
    chat._cache.truncate(place.first + 2)
    chat._ids = row.input_ids[: place.first + 2]
    ids = tuple(piece.id for piece in chat.write(row, OPTIONS))
    assert chat.reused == place.first
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


def sessions(**limits) -> Sessions:
    network = text_model(2, letters_tokenizer().vocab_size, max_length=2000)
    maker = Processor(tokenizer=letters_tokenizer(), template=processor().template)
    return Sessions(network, maker, IdleLimits(**limits))


def ask(found: Sessions, *texts: str) -> Chat:
    """Answer a conversation of these user messages, answers between them."""
    messages = [user(texts[0])]
    for text in texts[1:]:
        messages += [{"role": "assistant", "content": "x"}, user(text)]
    encoded = found.encode(conversation(messages))
    with found.chat(encoded) as chat:
        list(chat.write(encoded, OPTIONS))
    return chat


def test_each_conversation_finds_its_own_keys_and_values() -> None:
    found = sessions()
    talks = [("alpha " * 20,), ("beta " * 20,), ("gamma " * 20,)]
    chats = [ask(found, *talk) for talk in talks]
    assert found.idle == 3 and len(set(map(id, chats))) == 3
    for talk, chat in reversed(list(zip(talks, chats, strict=True))):
        held = len(found.encode(conversation([user(*talk)])))
        assert ask(found, *talk, "go on") is chat and chat.reused >= held - 10
    assert found.idle == 3


@pytest.mark.parametrize("limits", [{"chats": 2}, {"nbytes": 2 * 65_536}])
def test_idle_conversations_keep_to_the_limits(limits) -> None:
    found = sessions(**limits)
    chats = [ask(found, letter * 30) for letter in "abcde"]
    assert chats[0].nbytes == 65_536  # 2 layers, keys and values, 2 heads of 8, 256 tokens of room, float32
    assert found.idle == 2 and found.nbytes == 2 * 65_536
    assert ask(found, "d" * 30, "go on") is chats[3]
    assert ask(found, "a" * 30, "go on") not in chats
    assert found.idle == 2
    found.clear()
    assert found.idle == found.nbytes == 0


def test_a_conversation_above_the_limit_is_not_kept() -> None:
    found = sessions(nbytes=100_000)
    ask(found, "a" * 30)
    ask(found, "b" * 300)
    assert found.idle == 0 or found.nbytes <= 100_000
    with pytest.raises(ConfigError, match="idle limits"):
        IdleLimits(chats=-1)


def test_an_abandoned_answer_gives_up_its_memory(monkeypatch) -> None:
    found = sessions()
    encoded = found.encode(conversation("tell me"))
    states: list[weakref.ref[DecodeState]] = []
    step = DecodeState.step

    def watched(state, ids):
        states.append(weakref.ref(state.cache))
        step(state, ids)

    monkeypatch.setattr(DecodeState, "step", watched)

    def stream():
        with found.chat(encoded) as chat:
            yield from chat.write(encoded, OPTIONS)

    for end in ("close", "forget"):
        pieces = stream()
        next(pieces), next(pieces)
        if end == "close":
            pieces.close()
        del pieces
        gc.collect()
        assert states.pop()() is None and found.idle == found.nbytes == 0


def test_changed_weights_drop_all_that_was_computed() -> None:
    found = sessions()
    ask(found, "a" * 30)
    with torch.no_grad():
        found.model.backbone.norm.weight.mul_(2)
    found.encode(conversation("a"))
    assert found.idle == 0
    encoded = found.encode(conversation("b" * 30))
    with found.chat(encoded) as chat:
        list(chat.write(encoded, OPTIONS))
        with torch.no_grad():
            found.model.backbone.norm.weight.mul_(2)
        found.encode(conversation("c"))  # somebody else notices
    assert found.idle == 0, "what old weights computed is not kept when the answer ends later"


def test_conversations_of_several_threads_answer_as_alone() -> None:
    found = sessions(chats=2)
    texts = [letter * 20 for letter in "abcdef"]
    alone = {
        text: [piece.id for piece in Chat(found.model, found.processor).answer(text, max_tokens=12)] for text in texts
    }
    results: dict[tuple[str, int], list[int]] = {}

    def work(text: str) -> None:
        for number in range(3):
            encoded = found.encode(conversation(text))
            with found.chat(encoded) as chat:
                results[text, number] = [p.id for p in chat.write(encoded, SamplingOptions(max_tokens=12))]

    threads = [threading.Thread(target=work, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 18 and all(ids == alone[text] for (text, _), ids in results.items())
    assert found.idle <= 2


def test_ids_of_a_generation_config_end_answers_of_a_chat_too() -> None:
    plain = sessions()
    encoded = plain.encode(conversation([user("alpha")]))

    def answer(found: Sessions) -> list:
        with found.chat(encoded) as chat:
            return list(chat.write(encoded, OPTIONS))

    written = answer(plain)
    assert len(written) == OPTIONS.max_tokens
    second = written[1].id
    ended = answer(Sessions(plain.model, plain.processor, ends={second}))
    assert [piece.id for piece in ended] == [piece.id for piece in written[: len(ended)]]
    assert ended[-1].id == second and ended[-1].finish_reason == "stop"
