"""Tokenizer files that mean harm or are only broken: refused in one line, at once, and none ends the process."""

import base64
import copy
import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from polymodal.data import byte_level, whisper_tokenizer, word_files
from polymodal.data.charsmap import check_charsmap
from polymodal.data.gguf_tokenizer import gguf_tokenizer
from polymodal.data.patterns import read_pattern
from polymodal.data.tokenizer import Tokenizer
from polymodal.data.tokenizer_files import read_tokenizer
from polymodal.data.tokenizer_parts import TRIAL, checked_json
from polymodal.data.whisper_tokenizer import WhisperTokenizer
from polymodal.errors import PolymodalError, WeightsError
from tokenizer_samples import SENTENCES, bpe_files, model_file, rank_file, ranks, word_pieces, write

Table = dict[str, Any]
WORDS = {"type": "WordLevel", "vocab": {"a": 0, "[UNK]": 1}, "unk_token": "[UNK]"}
BPE = {"type": "BPE", "vocab": {"a": 0, "é": 1, "b": 2}, "merges": []}


def file(**parts: Any) -> str:
    """The text of a small tokenizer.json with some parts of its own."""
    empty = dict.fromkeys(("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder"))
    return json.dumps({"version": "1.0", **empty, "added_tokens": [], "model": WORDS, **parts})


def added(count: int, **options: Any) -> list[Table]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [{"id": 2 + i, "content": f"<{i}>", "special": True, **flags, **options} for i in range(count)]


def double(letter: str = "a") -> Table:
    return {"type": "Replace", "pattern": {"String": letter}, "content": letter * 2}


def split(pattern: str) -> str:
    return file(pre_tokenizer={"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False})


def charsmap(replacement: bytes, size: int = 1) -> str:
    """A table that replaces "a"; its trie: root -> "a" -> value 0."""
    units = [0] * 256
    units[0] = 1 << 10
    units[1 ^ 97] = 97 | 1 << 8 | (2 ^ (1 ^ 97)) << 10
    units[2] = 0x8000_0000
    trie = b"".join(unit.to_bytes(4, "little") for unit in units)
    return base64.b64encode(len(trie).to_bytes(4, "little") + trie + replacement * size + b"\0").decode()


BITES = {
    "replacements that double": file(normalizer={"type": "Sequence", "normalizers": [double()] * 40}),
    "a replacement of nothing": file(
        normalizer={"type": "Replace", "pattern": {"String": ""}, "content": "a" * 300},
    ),
    "a replacement between letters": file(
        normalizer={"type": "Replace", "pattern": {"Regex": "(?=a)"}, "content": "a" * 300},
    ),
    "replacements on the way back": file(decoder={"type": "Sequence", "decoders": [double("[UNK]")] * 9}),
    "sequences in sequences": file(
        normalizer={"type": "Sequence", "normalizers": [{"type": "Sequence", "normalizers": [double()] * 5}] * 5},
    ),
    "replacements without a type": file(normalizer={"normalizers": [{"pattern": "a", "content": "aa"}] * 40}),
    "bytes of letters of bytes": file(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}] * 30},
    ),
    "a long text in front": file(normalizer={"type": "Prepend", "prepend": "a" * 1_000_000}),
    "too many steps": file(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}] * 1000}),
    "a repeat within a repeat": split("(a+)+b"),
    "choices that overlap": split("(?:a|aa)+$x"),
    "a pattern that calls itself": split(r"(?<x>a\g<x>?)"),
    "a pattern of a megabyte": split("a|" * 500_000),
    "a reference backwards": split(r"(\w+)\1"),
    "a pattern that cannot be read": split("[a"),
    "pieces of no letters": file(pre_tokenizer={"type": "FixedLength", "length": 0}),
    "letters stripped beyond the text": file(
        decoder={"type": "Strip", "content": "a", "start": 10**18, "stop": 10**18},
    ),
    "a template that repeats": file(
        post_processor={"type": "Sequence", "processors": [
            {"type": "TemplateProcessing", "special_tokens": {}, "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
             "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 2}] * 40},
    ),
    "a million added tokens": file(added_tokens=added(1_000_000)),
    "an added token of megabytes": file(added_tokens=added(1, content="a" * 5_000_000)),
    "an id beyond all": file(model={**WORDS, "vocab": {"a": 2**31, "[UNK]": 1}}),
    "an id below nothing": file(model={**WORDS, "vocab": {"a": -1, "[UNK]": 1}}),
    "an id that is true": file(model={**WORDS, "vocab": {"a": True, "[UNK]": 1}}),
    "words without a limit": file(
        model={"type": "WordPiece", "vocab": {"a": 0, "##a": 1}, "unk_token": "a", "continuing_subword_prefix": "##",
               "max_input_chars_per_word": 10**9},
    ),
    "a merge that cuts within a letter": file(
        model={**BPE, "merges": ["a é"], "continuing_subword_prefix": "x"},
    ),
    "a prefix of several bytes": file(model={**BPE, "merges": ["a é"], "continuing_subword_prefix": "é"}),
    "a merge of what is not there": file(model={**BPE, "merges": ["a q"]}),
    "an unknown piece outside": file(model={"type": "Unigram", "vocab": [["a", 0.0]], "unk_id": 7}),
    "a table that is not one": file(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "a table that ends early": file(
        normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap(b"x")[:400]},
    ),
    "a letter that becomes a book": file(
        normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap(b"x", 100_000)},
    ),
    "an unknown part": file(normalizer={"type": "Shell"}),
    "an unknown model": file(model={"type": "Python", "vocab": {}}),
    "a part that is a list": file(normalizer=[1, 2]),
    "no model": file(model=None),
    "one key twice": file()[:-1] + ', "normalizer": {"type": "Prepend", "prepend": "' + "a" * 1000 + '"}}',
    "nothing but brackets": "[" * 5_000_000,
    "values without end": "[" + "0," * 10_000_000 + "0]",
}  # fmt: skip


@pytest.mark.parametrize("name", BITES)
def test_tokenizer_json_that_bites_is_refused_at_once(name: str, attack: Any) -> None:
    with attack.one(name, seconds=5, megabytes=700):
        Tokenizer.from_json(BITES[name])
    assert attack.refused, f"{name}: taken"


def test_a_key_that_occurs_twice_is_read_as_it_was_checked() -> None:
    text = file(normalizer={"type": "Lowercase"})
    doubled = '{"normalizer": {"type": "Prepend", "prepend": "xx"}, ' + text[1:]
    assert Tokenizer.from_json(doubled).to_json() == Tokenizer.from_json(text).to_json()


def test_a_small_table_of_letters_works() -> None:
    text = file(
        normalizer={"type": "Precompiled", "precompiled_charsmap": charsmap(b"bc")}, model=BPE | {"unk_token": "b"}
    )
    assert Tokenizer.from_json(text).encode("a") == [2, 2]
    assert check_charsmap(base64.b64decode(charsmap(b"bc"))) == 2


PUBLISHED_PATTERNS = (
    byte_level.QWEN2_WORDS, byte_level.LLAMA3_WORDS, word_files.CLIP_WORDS, whisper_tokenizer.WORD_PATTERN,
    r"\s+", " {2,}", r"[\r\n]", r"\s+$", r"\p{N}{1,3}", r"(?:\r?\n)+(?!\r?\n)", r"(?=(\d{3})+(?!\d))",
    r"\p{N}{1,3}(?=(?:\p{N}{3})*(?:\P{N}|$))", r"(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
    r" ?[^(\s|[.,!?…。，、।۔،])]+", r"[一-龥぀-ゟ゠-ヿ]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]"
    r"|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*""",
    r"[\p{Han}]+|[\p{Lu}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t)?",
)  # fmt: skip
SLOW_PATTERNS = (
    r"(a+)+b", r"(a|a)*b", r"(?:a?){60}b", "a?" * 30 + "a" * 30, "a*" * 6 + "b", r"(a*)*", r"(\w+\s?)*[;:]",
    r"(?:a{1000}){1000}", r"(a)\1+", r"(?~abc)", "(" * 5000, r"a{2,3}+", r"a+*", r"(?(1)a)", r"(*SKIP)", "[", "a)",
    r"a{99999999999}", r"((?:a|aa))+$", r"(?:[ab]|a)+c", r"(?:a{0,99}){0,99}b", r"(?x: a )", r"\K", "*a", "[" * 50,
    r"(?:(?:a|b)?){50}c", r"(?i:a|A)+b", r"(?#a)", r"(?{a})", "(?:" * 30 + "a" + ")?" * 30, r"(a|b|ab)*c", r"(|a)+",
)  # fmt: skip


def test_patterns_are_read_before_they_run() -> None:
    for pattern in PUBLISHED_PATTERNS:
        read_pattern(pattern)
    for pattern in SLOW_PATTERNS:
        with pytest.raises(ValueError, match=r"pattern"):
            read_pattern(pattern)


def test_generated_patterns_end_soon(attack: Any) -> None:
    letters = [
        *"ab \\.",
        r"\w",
        r"\s",
        "[ab]",
        r"\p{L}",
        *"*+?|()",
        "{2,}",
        "{0,3}",
        "(?:",
        "(?=",
        "(?>",
        ")",
        "^",
        "$",
    ]
    for number, rng in attack.inputs(300):
        pattern = "".join(rng.choices(letters, k=rng.randint(1, 14)))
        with attack.one(f"{number} {pattern!r}", seconds=5):
            tokenizer = Tokenizer.from_json(split(pattern))
            tokenizer.encode(rng.choice(["ab" * 60, "a " * 60, "a" * 120]) + "!")


# ---- damaged files ----

FOLDERS: dict[str, Table] = {
    "llama": {"tokenizer.model": model_file("llama"), "tokenizer_config.json": {"tokenizer_class": "LlamaTokenizer"}},
    "plain": {"tokenizer.model": model_file("llama")},
    "t5": {"spiece.model": model_file("t5"), "tokenizer_config.json": {"tokenizer_class": "T5Tokenizer"}},
    "gpt2": {**bpe_files("<|endoftext|>"), "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"}},
    "bert": {"vocab.txt": word_pieces(), "tokenizer_config.json": {"tokenizer_class": "BertTokenizer"}},
    "qwen": {"qwen.tiktoken": rank_file(), "tokenizer_config.json": {"tokenizer_class": "QWenTokenizer"}},
}
HOSTILE: tuple[Any, ...] = (
    None, True, 0, 1, -1, 7, 255, 2**31, 2**64, 1.5, 1e300, "", "a", " ", "[UNK]", "\0", "\u0301", "é", "▁" * 3,
    "a" * 3000, [], {}, [None], {"": ""}, [[]], ["a", "b"],
    {"type": "Replace", "pattern": {"String": ""}, "content": "ab"}, {"type": "Fuse"},
    {"type": "Split", "pattern": {"Regex": "a?"}, "behavior": "Removed", "invert": True},
    {"type": "ByteFallback"}, {"type": "CTC", "pad_token": "", "word_delimiter_token": "", "cleanup": True},
    {"type": "UnicodeScripts"}, {"type": "Strip", "content": "a", "start": 9, "stop": 9}, {"type": "NFKD"},
    {"type": "CharDelimiterSplit", "delimiter": "a"}, {"type": "WordPiece", "prefix": "", "cleanup": True},
    {"type": "Metaspace", "replacement": "a", "prepend_scheme": "always", "split": False}, {"type": "Nmt"},
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to the values of a table; of long lists and vocabularies the first and last few."""
    if not isinstance(value, dict | list):
        return [path]
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    return [path] * bool(path) + [p for key in keys[:6] + keys[6:][-3:] for p in places(value[key], (*path, key))]


def mutated(table: Table, rng: random.Random) -> Table:
    """The table with a few values replaced, removed, repeated or moved."""
    changed = copy.deepcopy(table)
    for _ in range(rng.randint(1, 3)):
        path = rng.choice(places(changed))
        holder = changed
        for key in path[:-1]:
            holder = holder[key]
        match rng.randrange(5):
            case 0:
                del holder[path[-1]]
            case 1 if isinstance(holder, list):
                holder.extend(holder[:50] * rng.randint(1, 20))
            case 2:
                value = changed
                for key in rng.choice(places(changed)):
                    value = value[key]
                holder[path[-1]] = copy.deepcopy(value)
            case 3 if isinstance(holder, dict):
                holder[str(rng.choice(HOSTILE))] = holder[path[-1]]
            case _:
                holder[path[-1]] = copy.deepcopy(rng.choice(HOSTILE))
    return changed


def use(tokenizer: Tokenizer, rng: random.Random) -> None:
    """What a model does with a tokenizer; a text that it does not take is refused."""
    for text in (TRIAL, *rng.sample(SENTENCES, 3)):
        ids = tokenizer.encode(text)
        assert len(ids) <= 300 * (len(text) + 10)
        tokenizer.decode(ids, skip_special=False)
        tokenizer.encode_spans(text, first=False)
    tokenizer.decode(sorted(tokenizer.special_ids)[:20], skip_special=False)
    _ = tokenizer.special_tokens_around, tokenizer.fallback_ids, tokenizer.missing_bytes


def test_mutated_tokenizer_json(attack: Any, tmp_path: Path) -> None:
    tables = [json.loads(read_tokenizer(write(tmp_path / name, each)).to_json()) for name, each in FOLDERS.items()]
    for number, rng in attack.inputs(240):
        table = mutated(rng.choice(tables), rng)
        with attack.one(number, seconds=5):
            use(Tokenizer.from_json(json.dumps(table)), rng)


def test_mutated_vocabulary_files(attack: Any, tmp_path: Path) -> None:
    for number, rng in attack.inputs(240):
        name = rng.choice(sorted(FOLDERS))
        folder = write(tmp_path / "tried", copy.deepcopy(FOLDERS[name]))
        path = rng.choice(sorted(folder.iterdir()))
        data = bytearray(path.read_bytes())
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(data) + 1)
            match rng.randrange(5):
                case 0:
                    data[at : at + rng.choice((1, 4, 200))] = b""
                case 1:
                    data[at:at] = rng.randbytes(rng.choice((1, 3, 40)))
                case 2:
                    data[at:at] = data[at : at + 300] * rng.randint(1, 9)
                case 3:
                    data[at : at + 1] = bytes([rng.randrange(256)])
                case _:
                    del data[at:]
        path.write_bytes(data)
        with attack.one(f"{number} {name}/{path.name}", seconds=5):
            use(read_tokenizer(folder), rng)


def test_mutated_gguf_metadata(attack: Any) -> None:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab"]
    kinds = [2, 3, 3, *([6] * 256), 1, 1, 1, 1]
    llama = {"model": "llama", "tokens": pieces, "scores": [-float(i) for i in range(len(pieces))], "token_type": kinds,
             "bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0}  # fmt: skip
    letters = list(byte_level.letters())
    gpt2 = {"model": "gpt2", "pre": "gpt-2", "tokens": [*letters, "ab", "<s>"], "merges": ["a b"],
            "token_type": [*([1] * 257), 3], "bos_token_id": 257, "eos_token_id": 257}  # fmt: skip
    for number, rng in attack.inputs(240):
        table = mutated(rng.choice((llama, gpt2)), rng)
        metadata = {f"tokenizer.ggml.{name}": value for name, value in table.items()}
        with attack.one(number, seconds=5):
            use(gguf_tokenizer(metadata), rng)


def test_more_of_everything_than_a_vocabulary_has(attack: Any, tmp_path: Path) -> None:
    lines = "".join(f"{base64.b64encode(i.to_bytes(3, 'big')).decode()} {i}\n" for i in range(1_100_000))
    merges = "a b\n" * 2_200_000
    folders: dict[str, Table] = {
        "ranks": {"qwen.tiktoken": lines, "tokenizer_config.json": {"tokenizer_class": "QWenTokenizer"}},
        "words": {"vocab.txt": "a\n" * 1_100_000, "tokenizer_config.json": {"tokenizer_class": "BertTokenizer"}},
        "merges": {**FOLDERS["gpt2"], "merges.txt": merges},
        "added": {**FOLDERS["gpt2"], "added_tokens.json": {f"<{i}>": i + 1000 for i in range(300_000)}},
        "pieces": {"tokenizer.model": b"\x0a\x00" * 1_100_000},
        "vision": {"emu3.tiktoken": rank_file(), "emu3_vision_tokens.txt": "".join(f"<{i}>\n" for i in range(300_000)),
                   "tokenizer_config.json": {"tokenizer_class": "Emu3Tokenizer"}},
    }  # fmt: skip
    for name, files in folders.items():
        folder = write(tmp_path / name, files)
        with attack.one(name, seconds=20), pytest.raises(WeightsError):
            read_tokenizer(folder)


def test_a_long_word_takes_no_square_of_its_length(attack: Any) -> None:
    tokenizer = WhisperTokenizer(ranks(), multilingual=False)
    with attack.one("a word of 300,000 letters", seconds=10):
        assert tokenizer.decode(tokenizer.encode("th" * 150_000)) == "th" * 150_000


def test_words_are_merged_as_by_the_definition() -> None:
    tokenizer = WhisperTokenizer(ranks(), multilingual=False)
    rng = random.Random(5)
    for _ in range(300):
        word = "".join(rng.choices("thewapictures ", k=rng.randint(1, 30))).encode()
        parts = [word[index : index + 1] for index in range(len(word))]
        while known := [
            (tokenizer.ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in tokenizer.ranks
        ]:
            at = min(known)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        assert tokenizer._merged(word) == parts


def test_a_panic_of_the_library_is_a_refusal() -> None:
    from tokenizers import Tokenizer as Pipeline

    broken = Pipeline.from_str(file(pre_tokenizer={"type": "FixedLength", "length": 0}))
    with pytest.raises(WeightsError, match="fails on a short text"):
        Tokenizer(broken)


def test_what_is_checked_is_all_that_is_changed() -> None:
    text = file(normalizer={"type": "NFC"}, added_tokens=added(3))
    assert json.loads(checked_json(text, "x")) == json.loads(text)
    with pytest.raises(PolymodalError, match=r"^tokenizer: x .*damaged"):
        checked_json("{", "x")


def test_control_tokens_that_are_typed_are_text(tmp_path: Path) -> None:
    """Of every kind of vocabulary: no spelling, repetition or neighbour makes one of what a person typed."""
    for name, files in FOLDERS.items():
        tokenizer = read_tokenizer(write(tmp_path / name, files))
        typed = [*list(tokenizer.special_tokens)[:12], "[SEP]", "[PAD]", "[CLS]", "[MASK]", "</s>", "<s>", "<pad>"]
        for word in typed:
            for text in (word, f"a {word} b", word * 3, f" {word}", f"{word}\n", f"x{word}y", f"\u0301{word}"):
                ids = set(tokenizer.encode(text)) | set(tokenizer.encode_spans(text, first=False)[0])
                assert tokenizer._reachable.isdisjoint(ids), (name, text)
