"""Segments -> one row of ids: text between two special tokens is tokenised as one string, whoever wrote its parts.

    words("USER: ") special(<image>) words("\\n") words("What?") words(" ASSISTANT:")
    -> "USER: " | <image> | "\\nWhat? ASSISTANT:"      three calls; ids equal those of the whole string

The published processors tokenise the finished prompt, so a merge across the border of two parts happens there too, and
a sentencepiece vocabulary puts its space in front of the text, not of each part.  The loss mask follows the characters:
a token has loss where any of its characters has, as in transformers' mask of assistant tokens.
Traps: official code that tokenises pieces by separate calls has a `text_start()` between them; a special token may take
the white space beside it (`lstrip`, `rstrip`), in the prompt as in the published pipeline.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from polymodal.data.encoded import Encoded, MediaSpan
from polymodal.data.tokenizer import Tokenizer


@dataclass
class Position:
    """A token index that is known once the text before it was tokenised."""

    index: int = -1


@dataclass
class RowBuilder:
    """Collects one row; `words` wait until a special token, media or the end closes their run."""

    tokenizer: Tokenizer
    input_ids: list[int] = field(default_factory=list)
    loss_mask: list[bool] = field(default_factory=list)
    token_types: list[int] = field(default_factory=list)
    _texts: list[tuple[str, bool]] = field(default_factory=list)
    _positions: list[tuple[int, bool, Position]] = field(default_factory=list)
    _length: int = 0
    _first: bool = True  # nothing precedes the run in its tokenizer call
    _strip: bool = False  # the special token in front of the run takes the white space behind it

    def words(self, text: str, loss: bool = False) -> None:
        """Plain text; it cannot become a special token."""
        if text:
            self._texts.append((text, loss))
            self._length += len(text)

    def special(self, name: str, loss: bool = False, token_type: int = 0) -> None:
        """One special token by its name."""
        left, right = self.tokenizer.strips(name)
        self.ids([self.tokenizer.special(name)], loss, token_type, strips=(left, right))

    def ids(
        self, ids: Sequence[int], loss: bool = False, token_type: int = 0, strips: tuple[bool, bool] = (False, False)
    ) -> None:
        """Finished ids.  strips: whether they take the white space before and behind them."""
        self._flush(strip_right=strips[0])
        self._append(ids, [loss] * len(ids), token_type)
        self._first, self._strip = False, strips[1]

    def text_start(self) -> None:
        """A new call of the tokenizer begins here."""
        self._flush()
        self._first, self._strip = True, False

    def position(self, after: bool = False) -> Position:
        """The index of the next token; after: of the first token that holds nothing of the words so far."""
        position = Position()
        self._positions.append((self._length, after, position))
        return position

    def row(self, media_spans: Sequence[MediaSpan] = ()) -> Encoded:
        """The finished row."""
        return Encoded(input_ids=self.input_ids, loss_mask=self.loss_mask, token_types=self.token_types,
                       media_spans=tuple(media_spans))  # fmt: skip

    def finish(self) -> None:
        """Tokenise what waits, so that every position has its index."""
        self._flush()

    def _flush(self, strip_right: bool = False) -> None:
        text = "".join(text for text, _ in self._texts)
        kept = text.rstrip() if strip_right else text
        cut = len(kept) - len(kept.lstrip()) if self._strip else 0
        ids, spans = self.tokenizer.encode_spans(kept[cut:], first=self._first)
        losses = [loss for text, loss in self._texts for _ in text][cut : len(kept)]
        start = len(self.input_ids)
        for at, after, position in self._positions:
            offset = min(max(at - cut, 0), len(kept) - cut)
            whole = (begin < offset for begin, _ in spans) if after else (end <= offset for _, end in spans)
            position.index = start + sum(whole)
        self._append(ids, [any(losses[begin:end]) for begin, end in spans], 0)
        self._texts, self._positions, self._length = [], [], 0
        self._first = self._first and not text

    def _append(self, ids: Sequence[int], losses: Sequence[bool], token_type: int) -> None:
        self.input_ids.extend(ids)
        self.loss_mask.extend(losses)
        self.token_types.extend([token_type] * len(ids))
