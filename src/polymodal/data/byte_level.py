"""Byte-level BPE: text is cut into words, words into bytes, and each byte is written as one printable letter (GPT-2).

    words by a published regular expression -> UTF-8 bytes -> letters -> merges

Traps: the letter of a space is U+0120, not a space; the expressions differ in where digits, contractions and line ends
go; a rank file (tiktoken) has no merges, each cut of a token into two tokens is one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache

from tokenizers import Regex, pre_tokenizers

from polymodal.data.tokenizer_parts import bounded

QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_WORDS = QWEN2_WORDS.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def gpt2_words(add_prefix_space: bool = False) -> pre_tokenizers.PreTokenizer:
    """GPT-2's words, then their bytes."""
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=True)


def split_then_bytes(pattern: str, *, add_prefix_space: bool = False) -> pre_tokenizers.PreTokenizer:
    """Words by a published regular expression, then their bytes."""
    words = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    letters = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=False)
    return pre_tokenizers.Sequence([words, letters])


@cache
def letters() -> tuple[str, ...]:
    """The letter of each of the 256 bytes."""
    # The alphabet keeps printable Latin-1 as it is; the other bytes follow, in order, from U+0100 on.
    kept = {ord(letter) for letter in pre_tokenizers.ByteLevel.alphabet() if ord(letter) < 256}
    moved = [byte for byte in range(256) if byte not in kept]
    of = {byte: chr(byte) for byte in kept} | {byte: chr(256 + index) for index, byte in enumerate(moved)}
    return tuple(of[byte] for byte in range(256))


@cache
def _translation() -> dict[int, str]:
    return dict(enumerate(letters()))


def byte_letters(token: bytes) -> str:
    """Bytes as the letters of a byte-level vocabulary."""
    return token.decode("latin-1").translate(_translation())


def merges_of_ranks(ranks: Mapping[bytes, int]) -> list[tuple[str, str]]:
    """The merges of a rank file (token -> rank), in letters: by rank of the whole, then of its parts."""
    names = {token: byte_letters(token) for token in ranks}
    return bounded(_cuts(ranks, names))


def _cuts(ranks: Mapping[bytes, int], names: Mapping[bytes, str]) -> Iterator[tuple[str, str]]:
    for token in sorted(ranks, key=ranks.__getitem__):
        cuts = [(token[:cut], token[cut:]) for cut in range(1, len(token)) if token[:cut] in ranks]
        known = [pair for pair in cuts if pair[1] in ranks]
        if len(known) > 1:
            known.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        for left, right in known:
            yield names[left], names[right]
