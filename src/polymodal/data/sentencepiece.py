"""SentencePiece `.model` files, read without the library (github.com/google/sentencepiece, sentencepiece_model.proto).

    tokenizer.model | spiece.model | sentencepiece.bpe.model (protobuf) -> fields of the wire -> SentencePieceModel

Only what encoding and decoding need is kept: the pieces, how they were trained, and how text is normalised before.
Traps: absent fields have the defaults of the .proto, not zero (pieces are normal, a space is put in front, spaces are
collapsed); negative numbers are varints of ten bytes; the normaliser's table of characters is a double array that the
tokenizers library walks without looking at its bounds, so it is walked here first.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from polymodal.data.charsmap import check_charsmap
from polymodal.errors import ConfigError, WeightsError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
ALGORITHMS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
MAX_PIECES = 1 << 20  # the largest published file has 262,144
# All ways to cut a piece in two are looked at, so a file of a few long pieces could take hours.
MAX_PIECE = 4096
MAX_CUTS = 1 << 28

_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5


@dataclass(frozen=True, kw_only=True)
class SentencePieceModel:
    """One `.model` file; the index of a piece in `pieces` is its id.

    pieces, scores, kinds: text, log probability or rank, and NORMAL .. BYTE of every id.  algorithm: "unigram" or
    "bpe".  byte_fallback: unknown characters are written as pieces <0x00> .. <0xFF>.  unknown: id of the unknown piece.
    roles: "bos", "eos", "pad", "unk" -> piece, for those that the model has.  charsmap: the normaliser's table, empty
    for none.  dummy_prefix: a space is put before the text.  collapse_spaces: spaces at the ends are dropped, others
    made one.  escape_spaces: spaces are written as U+2581.
    """

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    kinds: tuple[int, ...]
    algorithm: str
    byte_fallback: bool
    unknown: int
    roles: Mapping[str, str]
    charsmap: bytes
    dummy_prefix: bool
    collapse_spaces: bool
    escape_spaces: bool

    def of_kind(self, *kinds: int) -> tuple[tuple[int, str], ...]:
        """Id and text of the pieces of these kinds, by id."""
        return tuple((i, self.pieces[i]) for i, kind in enumerate(self.kinds) if kind in kinds)


def read_sentencepiece(data: bytes, *, where: str) -> SentencePieceModel:
    """A model from the bytes of its file.

    Raises: WeightsError when they are damaged, ConfigError for a model of single words or characters or with its
    spaces behind the words; both name `where`.
    """
    try:
        trainer: dict[int, Any] = {}
        normalizer: dict[int, Any] = {}
        pieces: list[str] = []
        scores: list[float] = []
        kinds: list[int] = []
        for number, value in _fields(data):
            if number == 1:
                text, score, kind = _piece(_expect(value, bytes, "a piece"))
                pieces.append(text)
                scores.append(score)
                kinds.append(kind)
                if len(pieces) > MAX_PIECES:
                    raise ValueError(f"it has more than {MAX_PIECES} pieces")
            elif number == 2:
                trainer.update(_fields(_expect(value, bytes, "the trainer's settings")))
            elif number == 3:
                normalizer.update(_fields(_expect(value, bytes, "the normaliser's settings")))
        check_pieces(pieces, kinds)
        return _model(pieces, scores, kinds, trainer, normalizer, where)
    except (ValueError, struct.error) as problem:
        raise WeightsError(f"tokenizer: {where} is not a sentencepiece model ({problem}); fetch it again") from None


def _model(
    pieces: list[str],
    scores: list[float],
    kinds: list[int],
    trainer: Mapping[int, Any],
    normalizer: Mapping[int, Any],
    where: str,
) -> SentencePieceModel:
    """The settings by name, with the defaults of the .proto."""
    algorithm = ALGORITHMS.get(_number(trainer, 3, 1))
    if algorithm not in ("unigram", "bpe"):
        raise ConfigError(
            f"tokenizer: {where} is a sentencepiece model of kind {algorithm or trainer.get(3)!r}; bpe and unigram "
            f"are supported, save it as tokenizer.json"
        )
    if _number(trainer, 24, 0):
        raise ConfigError(
            f"tokenizer: {where} writes spaces behind words (treat_whitespace_as_suffix), which is not supported; "
            f"save it as tokenizer.json"
        )
    unknown = _number(trainer, 40, 0)
    if not 0 <= unknown < len(pieces):
        raise ValueError(f"its unknown piece is {unknown}, outside of its {len(pieces)} pieces")
    roles = {}
    for role, field_number, default in (("unk", 40, 0), ("bos", 41, 1), ("eos", 42, 2), ("pad", 43, -1)):
        index = _number(trainer, field_number, default)
        if 0 <= index < len(pieces):
            roles[role] = pieces[index]
    charsmap = _expect(normalizer.get(2, b""), bytes, "the normaliser's table")
    if charsmap:
        check_charsmap(charsmap)
    return SentencePieceModel(
        pieces=tuple(pieces),
        scores=tuple(scores),
        kinds=tuple(kinds),
        algorithm=algorithm,
        byte_fallback=bool(_number(trainer, 35, 0)),
        unknown=unknown,
        roles=roles,
        charsmap=charsmap,
        dummy_prefix=bool(_number(normalizer, 3, 1)),
        collapse_spaces=bool(_number(normalizer, 4, 1)),
        escape_spaces=bool(_number(normalizer, 5, 1)),
    )


def check_pieces(pieces: list[str], kinds: list[int]) -> None:
    """Raises ValueError for pieces that are no vocabulary, or that it would take hours to work with."""
    if not pieces:
        raise ValueError("it has no pieces")
    if len(set(pieces)) != len(pieces):
        twice = next(text for text, index in zip(pieces, _earlier_indices(pieces), strict=True) if index is not None)
        raise ValueError(f"its piece {twice[:40]!r} occurs twice")
    if not all(NORMAL <= kind <= BYTE for kind in kinds):
        raise ValueError(f"it has a piece of kind {next(k for k in kinds if not NORMAL <= k <= BYTE)}")
    if any(kind == BYTE and not _is_byte(text) for text, kind in zip(pieces, kinds, strict=True)):
        raise ValueError("a piece for a byte is not written <0x00> to <0xFF>")
    check_cuts(pieces)


def check_cuts(pieces: list[str] | list[bytes]) -> None:
    """Raises ValueError when pieces are empty or so long that to cut them everywhere is too much work."""
    if not all(pieces):
        raise ValueError("it has an empty piece")
    if max(map(len, pieces)) > MAX_PIECE:
        raise ValueError(f"its longest piece has {max(map(len, pieces))} letters, more than {MAX_PIECE}")
    if sum(len(piece) ** 2 for piece in pieces) > MAX_CUTS:
        raise ValueError("its pieces are too long for a vocabulary of so many")


def _earlier_indices(pieces: list[str]) -> Iterator[int | None]:
    """For each piece the index at which it occurred before, None where it did not."""
    seen: dict[str, int] = {}
    for index, text in enumerate(pieces):
        yield seen.get(text)
        seen.setdefault(text, index)


def _is_byte(text: str) -> bool:
    digits = text[3:5]
    return len(text) == 6 and text == f"<0x{digits}>" and all(letter in "0123456789ABCDEF" for letter in digits)


# ---- the wire format of protobuf ----


def _piece(data: bytes) -> tuple[str, float, int]:
    """Text, score and kind of one piece."""
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(data):
        if number == 1:
            text = _expect(value, bytes, "a piece's text").decode("utf-8")
        elif number == 2:
            raw = _expect(value, bytes, "a piece's score")
            (score,) = struct.unpack("<f", raw)
        elif number == 3:
            kind = _expect(value, int, "a piece's kind")
    if not math.isfinite(score):
        raise ValueError(f"its piece {text[:40]!r} has the score {score}")
    return text, score, kind


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message: an int for varints, the raw bytes for everything else."""
    offset, size = 0, len(data)
    while offset < size:
        key, offset = _varint(data, offset)
        kind = key & 7
        if key >> 3 == 0:
            raise ValueError(f"a field at byte {offset} has the number 0")
        value: int | bytes
        if kind == _VARINT:
            value, offset = _varint(data, offset)
        else:
            if kind == _BYTES:
                length, offset = _varint(data, offset)
            elif kind in (_FOUR_BYTES, _EIGHT_BYTES):
                length = 4 if kind == _FOUR_BYTES else 8
            else:
                raise ValueError(f"a field at byte {offset} is of the wire type {kind}")
            if length > size - offset:
                raise ValueError(f"a field at byte {offset} ends {length - (size - offset)} bytes past the file's end")
            value = data[offset : offset + length]
            offset += length
        yield key >> 3, value


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    """An unsigned number of at most 64 bits and where it ends."""
    value = shift = 0
    while offset < len(data):
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, offset
        shift += 7
        if shift > 63:
            raise ValueError(f"a number at byte {offset} is longer than 64 bits")
    raise ValueError("it ends within a number")


def _number(fields: Mapping[int, Any], number: int, default: int) -> int:
    """A signed number of 32 bits (protobuf writes them as 64 bits in two's complement)."""
    value: int = _expect(fields.get(number, default), int, f"setting {number}")
    return value - (1 << 64) if value >= 1 << 63 else value


def _expect(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{what} has the wrong type")
    return value
