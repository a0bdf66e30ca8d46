"""What a tokenizer.json may hold: known parts, whose work and output are bounded before the library sees them.

    text -> JSON of bounded size -> parts on the lists below, with their sizes -> the same table, written anew

The library believes its files: a chain of replacements that doubles the text fills the memory, a pattern that repeats a
repeat never ends, a merge that cuts within a character ends the process.  What was checked is what the library gets: it
is written anew, since a key that occurs twice would be read differently here and there.
Traps: parts in old files have no `type`; the table of characters is walked by `check_charsmap`; a vocabulary may have
holes, which the library goes through one by one when it writes itself.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

from tokenizers import Tokenizer as Pipeline

from polymodal.data.charsmap import check_charsmap
from polymodal.data.patterns import read_pattern
from polymodal.errors import PolymodalError, WeightsError
from polymodal.files import parse_json

MAX_ITEMS = 1 << 22  # values of one tokenizer.json; a vocabulary of 262,144 with its merges has 1.4 million
MAX_LISTS = 1 << 21  # lists and tables in it
MAX_TOKENS = 1 << 20  # of a vocabulary; the largest published has 282,926
MAX_MERGES = 1 << 21  # the most published is 514,906
MAX_ADDED = 1 << 18  # tokens beside the vocabulary; the most published is 131,072 (pictures as tokens)
MAX_ADDED_LETTERS = 1 << 22
MAX_HOLES = 1 << 16  # ids without a token
MAX_STEPS = 64  # normalisers, splits or decoders of one tokenizer
MAX_GROWTH = 256  # bytes made of one; published: 50 (sentencepiece's table, then spaces of three bytes)
MAX_PREPEND = 64  # letters put in front of a text
MAX_WORD = 1000  # letters of a word that WordPiece looks up, which takes their cube; published: 100
MAX_STRIP = 64
TRIAL = " ".join(
    ["Hello, World's 42nd \u00c9t\u00e9!  \u4f60\u597d \U0001f600\n\t", "a" * 250, " " * 250, "1" * 250, "!" * 250, ";"]
)
TRIAL_SECONDS = 2.0  # it takes a millisecond
TRIAL_GROWTH = 300  # tokens, or letters of the way back, for each letter

NORMALIZERS = frozenset({
    "BertNormalizer", "ByteLevel", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled", "Prepend",
    "Replace", "Sequence", "Strip", "StripAccents",
})  # fmt: skip
PRE_TOKENIZERS = frozenset({
    "BertPreTokenizer", "ByteLevel", "CharDelimiterSplit", "Delimiter", "Digits", "FixedLength", "Metaspace",
    "Punctuation", "Sequence", "Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit",
})  # fmt: skip
POST_PROCESSORS = frozenset({"BertProcessing", "ByteLevel", "RobertaProcessing", "Sequence", "TemplateProcessing"})
DECODERS = frozenset({
    "BPEDecoder", "ByteFallback", "ByteLevel", "CTC", "Fuse", "Metaspace", "Replace", "Sequence", "Strip", "WordPiece",
})  # fmt: skip
MODELS = frozenset({"BPE", "Unigram", "WordLevel", "WordPiece"})
_PIECE = frozenset({"SpecialToken", "Sequence"})  # what the template of a post-processor puts together
PARTS = {
    "normalizer": NORMALIZERS,
    "pre_tokenizer": PRE_TOKENIZERS,
    "post_processor": POST_PROCESSORS,
    "decoder": DECODERS,
}


def checked_json(text: str, where: str) -> str:
    """The text of a tokenizer.json as the library may read it; raises WeightsError, naming `where`, for any other."""
    name = f"tokenizer: {where}"
    if text.count(",") > MAX_ITEMS or text.count("[") + text.count("{") > MAX_LISTS:
        raise WeightsError(f"{name} has more than {MAX_ITEMS:,} values, which no tokenizer has; check the file")
    table = parse_json(text, name)
    try:
        _check(table)
    except ValueError as problem:
        raise WeightsError(f"{name} is not a tokenizer.json ({problem})") from None
    return json.dumps({**table, "truncation": None, "padding": None}, ensure_ascii=False)


@contextmanager
def no_panic(what: str) -> Iterator[None]:
    """Around calls of the library: its panics, which are no Exception, become WeightsError, saying `what`."""
    try:
        yield
    except BaseException as problem:
        if type(problem).__name__ != "PanicException":
            raise
        raise WeightsError(f"tokenizer: {what} ({_first_line(problem)})") from None


def made_by_library(what: str, make: Callable[[], Any]) -> Any:
    """What `make` returns; raises WeightsError, saying `what`, for everything that the library does not like."""
    try:
        with no_panic(what):
            return make()
    except PolymodalError:
        raise
    except Exception as problem:  # the library raises a bare Exception for every defect of a file
        raise WeightsError(f"tokenizer: {what} ({_first_line(problem)})") from None


def try_out(pipeline: Pipeline) -> None:
    """Encode and decode a short text; raises WeightsError when that ends in a panic, takes long, or makes too much."""
    start = time.monotonic()
    made = 0
    with no_panic("it fails on a short text; check its files"), suppress(Exception):  # a text may be unknown to it
        ids = pipeline.encode(TRIAL, add_special_tokens=True).ids
        made = max(len(ids), len(pipeline.decode(ids[: len(TRIAL)], skip_special_tokens=False)))
    if made > TRIAL_GROWTH * len(TRIAL):
        raise WeightsError(f"tokenizer: it makes {made:,} tokens or letters of {len(TRIAL)}; check its files")
    seconds = time.monotonic() - start
    if seconds > TRIAL_SECONDS:
        raise WeightsError(f"tokenizer: it takes {seconds:.1f} s for {len(TRIAL)} letters; check its patterns")


def _first_line(problem: BaseException) -> str:
    return (str(problem).splitlines() or [type(problem).__name__])[0][:120]


def check_added(contents: Iterable[str]) -> None:
    """Raises ValueError for more tokens beside a vocabulary than can be looked for in a text."""
    count = letters = 0
    for content in contents:
        count, letters = count + 1, letters + len(content)
    if count > MAX_ADDED or letters > MAX_ADDED_LETTERS:
        raise ValueError(f"it adds {count:,} tokens of {letters:,} letters; the limit is {MAX_ADDED:,}")


def check_count(count: int, limit: int = MAX_TOKENS, what: str = "tokens") -> None:
    """Raises ValueError for more entries than a vocabulary has."""
    if count > limit:
        raise ValueError(f"it has {count:,} {what}; the limit is {limit:,}")


def check_holes(ids: Iterable[int]) -> None:
    """Raises ValueError for ids that reach far beyond the number of tokens."""
    found = list(ids)
    last = max(found, default=0)
    if last > len(found) + MAX_HOLES:
        raise ValueError(f"its ids reach {last:,} for {len(found):,} tokens")


def bounded(merges: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The merges as a list; raises ValueError for more than a vocabulary has, before they are made."""
    found = list(islice(merges, MAX_MERGES + 1))
    check_count(len(found), MAX_MERGES, "merges")
    return found


def _check(table: Any) -> None:
    if not isinstance(table, dict) or not isinstance(table.get("model"), dict):
        raise ValueError("it has no model")
    added = table.get("added_tokens") or []
    if not isinstance(added, list):
        raise ValueError("its added tokens are not a list")
    contents = [_of(each, "content", str) for each in (_is(each, dict, "an added token") for each in added)]
    check_added(contents)
    for part, known in PARTS.items():
        steps = list(_steps(table.get(part), known))
        if len(steps) > MAX_STEPS:
            raise ValueError(f"its {part} has {len(steps)} steps; the limit is {MAX_STEPS}")
        growth = 1.0
        for step in steps:
            growth *= _growth(step)
            if growth > MAX_GROWTH:
                raise ValueError(f"its {part} makes texts more than {MAX_GROWTH} times longer")
    ids = [_of(each, "id", int) for each in added]
    _check_model(table["model"], ids)


def _steps(part: Any, known: frozenset[str]) -> Iterator[dict[str, Any]]:
    """A part and those inside of it."""
    waiting = [part]
    while waiting:
        each = waiting.pop()
        if each is None:
            continue
        kind = _is(each, dict, "a part").get("type")
        # Files of old versions leave the type out; what a part holds is looked at all the same.
        if kind is not None and (not isinstance(kind, str) or kind not in known):
            raise ValueError(f"its part {str(kind)[:40]!r} is not one of {', '.join(sorted(known))}")
        yield each
        inside = [value for value in each.values() if isinstance(value, list)]
        waiting += [item for values in inside for item in values if isinstance(item, dict) and not _PIECE & item.keys()]


def _growth(step: Mapping[str, Any]) -> float:
    """How many bytes a step makes of one at most.  Raises ValueError for one that cannot be bounded."""
    for key, limit in (("start", MAX_STRIP), ("stop", MAX_STRIP)):
        if key in step and not 0 <= _of(step, key, int) <= limit:
            raise ValueError(f"it strips {step[key]} letters")
    if "length" in step and not 1 <= _of(step, "length", int) < 1 << 31:
        raise ValueError(f"it cuts texts into pieces of {step['length']} letters")
    if "prepend" in step and len(_of(step, "prepend", str)) > MAX_PREPEND:
        raise ValueError(f"it puts {len(step['prepend'])} letters in front of a text")
    if "precompiled_charsmap" in step:
        return _charsmap_growth(step["precompiled_charsmap"])
    shortest = _shortest(step["pattern"]) if "pattern" in step else 1
    if "content" in step and "pattern" in step:
        made = len(_of(step, "content", str).encode())
        return max(1.0, made / shortest) if shortest else 1.0 + made
    if "single" in step:
        repeats = sum("Sequence" in item for item in _of(step, "single", list) if isinstance(item, dict))
        return max(1.0, repeats)
    return 2.0 if "trim_offsets" in step or step.get("type") == "ByteLevel" else 1.0  # a byte becomes a letter of two


def _shortest(pattern: Any) -> int:
    """How many bytes a pattern takes at least, 0 where it matches between two letters."""
    if isinstance(pattern, str):
        return len(pattern.encode())
    table = _is(pattern, dict, "a pattern")
    if "String" in table:
        return len(_of(table, "String", str).encode())
    return read_pattern(_of(table, "Regex", str)).shortest


def _charsmap_growth(text: Any) -> float:
    """Of the normaliser's table in base64; the library also takes a list of bytes."""
    if text is None:
        return 1.0
    if isinstance(text, list):
        if not all(type(byte) is int and 0 <= byte < 256 for byte in text):
            raise ValueError("the normaliser's table is not a list of bytes")
        return float(check_charsmap(bytes(text)))
    try:
        data = base64.b64decode(_is(text, str, "the normaliser's table"), validate=True)
    except binascii.Error:
        raise ValueError("the normaliser's table is not base64") from None
    return float(check_charsmap(data)) if data else 1.0


def _check_model(model: Mapping[str, Any], added_ids: list[int]) -> None:
    kind = model.get("type")
    if kind is not None and (not isinstance(kind, str) or kind not in MODELS):
        raise ValueError(f"its model {str(kind)[:40]!r} is not one of {', '.join(sorted(MODELS))}")
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list):
        check_count(len(vocabulary), what="pieces")
        if kind not in (None, "Unigram"):
            raise ValueError(f"the vocabulary of its {kind} is a list")
        return
    ids = list(_is(vocabulary, dict, "the vocabulary").values())
    check_count(len(ids))
    for index in (*ids, *added_ids):
        if type(index) is not int or index < 0:
            raise ValueError(f"a token has the id {str(index)[:40]}")
    check_holes((*ids, *added_ids))
    word = model.get("max_input_chars_per_word", 100)
    if type(word) is not int or not 0 <= word <= MAX_WORD:
        raise ValueError(f"it looks up words of {str(word)[:40]} letters; the limit is {MAX_WORD}")
    _check_merges(model.get("merges") or [], model.get("continuing_subword_prefix"))


def _check_merges(merges: Any, prefix: Any) -> None:
    """The library cuts the prefix off the right side of a merge without looking, by letters where it needs bytes."""
    check_count(len(_is(merges, list, "its list of merges")), MAX_MERGES, "merges")
    if not prefix:
        return
    if not _is(prefix, str, "the prefix of pieces").isascii():
        raise ValueError("the prefix of its pieces is not of ASCII letters")
    for merge in merges:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        right = pair[1] if isinstance(pair, list) and len(pair) == 2 else None
        if not isinstance(right, str) or not right.startswith(prefix):
            raise ValueError(f"its merge {str(merge)[:40]!r} has no {prefix[:20]!r} on its right side")


def _is(value: Any, kind: type, what: str) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ValueError(f"{what} is of the wrong kind, {type(value).__name__}")
    return value


def _of(table: Mapping[str, Any], key: str, kind: type) -> Any:
    return _is(table.get(key), kind, f"its {key!r}")
