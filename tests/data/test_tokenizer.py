"""Tokenizer: round trips, typed-in special tokens, streams, and equality with independent tokenizers."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_vocabulary import SPECIALS, tiny_metadata, tiny_tokenizer
from tokenizers import Regex, pre_tokenizers

import published_smollm2
from polymodal.data.tokenizer import Tokenizer, _pre_tokenizer, iterate_text, pad_id_of
from polymodal.errors import ConfigError, PromptError, UnknownName, WeightsError

unicode_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=60)
hostile_text = st.lists(st.one_of(unicode_text, st.sampled_from(SPECIALS), st.just("<|im_")), max_size=6).map("".join)


@given(hostile_text)
@settings(max_examples=150, deadline=None)
def test_typed_text_comes_back_and_never_holds_a_special_id(text: str) -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special=False) == text
    assert tokenizer.special_ids.isdisjoint(ids)


@given(st.lists(st.integers(0, tiny_tokenizer().vocab_size - 1), max_size=40), st.booleans())
@settings(max_examples=150, deadline=None)
def test_stream_of_any_ids_joins_to_the_decoded_text(ids: list[int], skip: bool) -> None:
    tokenizer = tiny_tokenizer()
    pieces = list(iterate_text(tokenizer, ids, skip))
    assert "".join(pieces) == tokenizer.decode(ids, skip)


@given(unicode_text)
@settings(max_examples=100, deadline=None)
def test_stream_of_text_never_shows_half_a_character(text: str) -> None:
    tokenizer = tiny_tokenizer()
    stream = tokenizer.stream()
    position = 0
    for index in tokenizer.encode(text):
        piece = stream.push(index)
        assert text[position : position + len(piece)] == piece
        position += len(piece)
    assert text[position:] == stream.finish()


def test_special_names_and_trusted_text() -> None:
    tokenizer = tiny_tokenizer()
    assert [tokenizer.special(name) for name in SPECIALS] == list(range(6))
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 0)
    assert tokenizer.encode("<|im_start|>", allow_special=True) == [1]
    assert len(tokenizer.encode("<|im_start|>")) > 1
    assert tokenizer.decode([1, *tokenizer.encode("the"), 2]) == "the"
    assert tokenizer.decode([1, *tokenizer.encode("the"), 2], skip_special=False) == "<|im_start|>the<|im_end|>"
    with pytest.raises(UnknownName, match=r"im_strat.*did you mean '<\|im_start\|>'"):
        tokenizer.special("<|im_strat|>")
    with pytest.raises(UnknownName, match="outside the vocabulary"):
        tokenizer.token(10**6)


def test_from_json_equals_from_gguf_and_control_makes_a_token_special() -> None:
    built = tiny_tokenizer()
    text = built._pipeline.to_str()
    again = Tokenizer.from_json(text, eos="<|im_end|>")
    sample = "In 2024 the user's   assistant <|im_end|> is\n\nhere 🙂"
    assert again.encode(sample) == built.encode(sample)
    assert again.eos_id == 2 and again.pad_id is None and pad_id_of(again) == 2
    record = json.loads(text)
    for token in record["added_tokens"]:
        token["special"] = token["content"] != "<filename>"
    loose = Tokenizer.from_json(json.dumps(record))
    assert loose.encode("<filename>") == [5]  # the file calls it an ordinary added token
    strict = Tokenizer.from_json(json.dumps(record), control=["<filename>"])
    assert strict.decode(strict.encode("<filename>")) == "<filename>" and 5 not in strict.encode("<filename>")
    assert strict.special("<filename>") == 5


def test_a_control_token_that_is_a_word_is_unknown_where_it_is_typed() -> None:
    from tokenizers import Tokenizer as Pipeline
    from tokenizers import models

    pipeline = Pipeline(models.WordLevel({"[UNK]": 0, "[CLS]": 1, "cat": 2}, unk_token="[UNK]"))
    pipeline.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pipeline.add_special_tokens(["[UNK]", "[CLS]"])
    tokenizer = Tokenizer(pipeline)
    assert tokenizer.encode("cat dog") == [2, 0]
    assert tokenizer.encode("cat [CLS]") == [2, 0] and tokenizer.encode("[CLS]", allow_special=True) == [1]
    assert tokenizer.missing_bytes == frozenset()


def test_damaged_files_and_wrong_inputs_are_named(tmp_path) -> None:
    broken = tmp_path / "tokenizer.json"
    broken.write_text('{"version": "1.0", ')
    with pytest.raises(WeightsError, match=r"tokenizer\.json"):
        Tokenizer.from_file(broken)
    with pytest.raises(WeightsError, match="there is no file"):
        Tokenizer.from_file(tmp_path / "absent.json")
    for key, value, words in (
        ("tokenizer.ggml.model", "llama", "'llama'"),
        ("tokenizer.ggml.pre", "klingon", "klingon"),
        ("tokenizer.ggml.merges", None, "merges"),
        ("tokenizer.ggml.merges", ["q z"], "merges do not fit"),
        ("tokenizer.ggml.tokens", ["a", "a"], "1 names"),
    ):
        with pytest.raises(WeightsError, match=words):
            Tokenizer.from_gguf(tiny_metadata() | {key: value})
    with pytest.raises(PromptError, match="expected str, found int"):
        tiny_tokenizer().encode(3)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="surrogate"):
        tiny_tokenizer().encode("a\ud800b")
    with pytest.raises(UnknownName, match="nope"):
        Tokenizer.from_gguf(tiny_metadata(), control=["nope"])
    nameless = {k: v for k, v in tiny_metadata().items() if not k.endswith("_token_id")}
    with pytest.raises(ConfigError, match="pad"):
        pad_id_of(Tokenizer.from_gguf(nameless))


def test_missing_bytes_are_reported_and_vanish() -> None:
    metadata = tiny_metadata()
    position = metadata["tokenizer.ggml.tokens"].index("Ī")  # the letter of byte 0x88
    for key in ("tokens", "token_type"):
        del metadata[f"tokenizer.ggml.{key}"][position]
    tokenizer = Tokenizer.from_gguf(metadata)
    assert tokenizer.missing_bytes == {0x88} and tiny_tokenizer().missing_bytes == frozenset()
    assert "È".encode() == b"\xc3\x88" and tokenizer.encode("È") == [tokenizer._pipeline.token_to_id("Ã")]


def test_pre_tokenisers_split_as_published() -> None:
    sample = "I've 1234 cats\n\n  and"

    def words(kind: str) -> list[str]:
        return [
            piece.replace("Ġ", " ").replace("Ċ", "\n") for piece, _ in _pre_tokenizer(kind).pre_tokenize_str(sample)
        ]

    assert words("smollm") == ["I", "'ve", " ", "1", "2", "3", "4", " cats", "\n\n ", " and"]
    assert words("gpt-2") == ["I", "'ve", " 1234", " cats", "\n\n ", " and"]
    assert words("qwen2") == ["I", "'ve", " ", "1", "2", "3", "4", " cats", "\n\n", " ", " and"]
    assert words("llama-bpe") == ["I", "'ve", " ", "123", "4", " cats", "\n\n", " ", " and"]


# ---- the published SmolLM2 vocabulary ----


def test_smollm2_published_facts() -> None:
    tokenizer = published_smollm2.tokenizer()
    assert tokenizer.vocab_size == 49152 and len(tokenizer.special_ids) == 17
    assert [tokenizer.special(n) for n in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")] == [0, 1, 2]
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 2)
    never_in_text = {0xC0, 0xC1, *range(0xF5, 0x100)}
    assert never_in_text < tokenizer.missing_bytes and len(tokenizer.missing_bytes) == 21


def test_smollm2_ids_equal_an_independent_gpt2_style_tokenizer() -> None:
    """Oracle: transformers' GPT-2 tokenizer class on the same vocabulary with a digit splitter in front."""
    transformers = pytest.importorskip("transformers")
    metadata = published_smollm2.opened().metadata
    vocabulary = {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ")) for merge in metadata["tokenizer.ggml.merges"]]
    oracle = transformers.GPT2Tokenizer(vocab=vocabulary, merges=merges, unk_token="<|endoftext|>")
    digits = pre_tokenizers.Split(Regex(r"\d"), behavior="isolated")
    oracle.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, oracle.backend_tokenizer.pre_tokenizer])
    tokenizer = published_smollm2.tokenizer()
    for text in SENTENCES:
        expected = oracle.backend_tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.encode(text) == expected
        assert tokenizer.decode(expected) == text


@given(st.text(st.characters(codec="utf-8", max_codepoint=0x3FFFF, exclude_categories=("Cs", "Cc")), max_size=80))
@settings(max_examples=100, deadline=None)
def test_smollm2_round_trip(text: str) -> None:
    tokenizer = published_smollm2.tokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text and "".join(iterate_text(tokenizer, ids)) == text


SENTENCES = (
    "What is in this picture?",
    "  leading spaces, tabs\tand\n\n\nnew lines  ",
    "It's 1234567 o'clock, they've 3.14 of them.",
    "Ünïcödé — naïve café, 北京 и Москва, 🙂👩‍👩‍👧",
    "def f(x):\n    return x ** 2  # code\n",
    "aaaaaaaaaaaaaaaaaaaa!!!!!!??",
    "",
)
