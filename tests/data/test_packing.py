"""Packing: every conversation once, whole and in few rows; what a packed row says of itself agrees with its parts."""

from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_processor import picture, processor
from tiny_vocabulary import tiny_tokenizer

from polymodal.data.encoder_decoder_processor import EncoderDecoderProcessor
from polymodal.data.media import Text
from polymodal.data.messages import Message, user
from polymodal.data.packing import joined, pack, packed
from polymodal.data.processor import IGNORE, Encoded
from polymodal.data.template import SMOLLM2
from polymodal.errors import PromptError

TALKS = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 3), st.booleans()), min_size=1, max_size=9)
PROCESSOR = processor()


def rows_of(talks: list[tuple[int, int, bool]]) -> list[Encoded]:
    """Rows told apart by their text: so many letters, pictures behind them, an answer or none."""
    rows = []
    for number, (letters, pictures, answered) in enumerate(talks):
        question = user("a" * letters + str(number), *(picture(number * 4 + i) for i in range(pictures)))
        answer = [Message(role="assistant", parts=(Text(f"b{number}"),))] if answered else []
        rows.append(PROCESSOR.encode([question, *answer]))
    return rows


def plain(length: int, number: int = 0) -> Encoded:
    return Encoded(input_ids=[number] * length, loss_mask=[True] * length, token_types=[0] * length)


@given(TALKS, st.integers(0, 60), st.sampled_from(["left", "right"]))
@settings(max_examples=60, deadline=None)
def test_every_conversation_stands_once_and_whole_in_a_row(talks, spare: int, padding) -> None:
    rows = rows_of(talks)
    length = max(map(len, rows)) + spare
    bins = pack(rows, length)
    assert all(len(each) <= length for each in bins)
    parts = list(chain.from_iterable(_parts(each) for each in bins))
    assert sorted(parts) == sorted(tuple(row.input_ids) for row in rows)
    firsts = [min(i for i, row in enumerate(rows) if tuple(row.input_ids) in _parts(each)) for each in bins]
    assert firsts == sorted(firsts)
    batch = PROCESSOR.collate(bins, padding=padding)
    keys = [span.item.key for each in bins for span in each.media_spans]
    assert sorted(keys) == sorted(span.item.key for row in rows for span in row.media_spans)
    assert sum(batch["item_tokens"]["image"]) == int((batch["input_ids"] == 3).sum())
    for each in bins:
        for span in each.media_spans:
            assert each.input_ids[span.first : span.first + span.item.tokens] == [3] * span.item.tokens
    if "segments" in batch:
        real = batch["segments"] > 0
        assert int(real.sum()) == sum(map(len, rows))
        assert batch["attention_mask"] is None or torch.equal(real, batch["attention_mask"].bool())
        starts = real & (batch["position_ids"] == 0)
        assert int(starts.sum()) == len(rows) and (batch["labels"][starts] == IGNORE).all()


def _parts(row: Encoded) -> list[tuple[int, ...]]:
    found, start = [], 0
    for length in row.segments or (len(row),):
        found.append(tuple(row.input_ids[start : start + length]))
        start += length
    return found


@given(st.lists(st.integers(1, 20), min_size=1, max_size=40), st.integers(20, 50))
def test_rows_are_few(lengths: list[int], length: int) -> None:
    bins = pack([plain(each) for each in lengths], length)
    sizes = sorted(map(len, bins))
    assert sum(sizes) == sum(lengths)
    assert len(sizes) < 2 or sizes[0] + sizes[1] > length, "two rows that fit into one are one"


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 7))
def test_a_stream_is_packed_window_by_window(lengths: list[int], window: int) -> None:
    rows = [plain(length, number) for number, length in enumerate(lengths)]
    found = list(packed(iter(rows), 12, window))
    assert sorted(chain.from_iterable(map(_parts, found))) == sorted(tuple(row.input_ids) for row in rows)
    numbers = [sorted(set(each.input_ids)) for each in found]
    assert all(group[0] // window == group[-1] // window for group in numbers)


def test_the_first_token_of_a_conversation_is_no_target() -> None:
    row = joined([plain(2, 7), plain(3, 8)])
    assert row.loss_mask == [False, True, False, True, True] and row.segments == (2, 3)
    assert joined([row]) is row


def test_what_cannot_be_packed_is_named() -> None:
    with pytest.raises(PromptError, match="row 1 has 5 tokens for a length of 4"):
        pack([plain(4), plain(5)], 4)
    with pytest.raises(PromptError, match="row 0 is packed already"):
        pack([joined([plain(1), plain(2)])], 4)
    with pytest.raises(PromptError, match="window"):
        list(packed([plain(1)], 4, 0))
    with pytest.raises(PromptError, match="packed rows are not cut"):
        PROCESSOR.fit(joined([plain(3), plain(2)]), 4, truncate=True)
    answering = EncoderDecoderProcessor(start_id=0, tokenizer=tiny_tokenizer(), template=SMOLLM2)
    with pytest.raises(PromptError, match="one conversation a row"):
        answering.collate([joined([plain(3), plain(2)])], padding="right")
