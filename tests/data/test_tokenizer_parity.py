"""Ids equal to those of `AutoTokenizer.from_pretrained(folder)`, of the sentencepiece library, and of tiktoken.

The folders hold what older checkpoints come with, never a tokenizer.json; special tokens in the text are read as such
in one pass and as text in the other.
"""

import json
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.data.byte_level import QWEN2_WORDS
from polymodal.data.tiktoken_file import ARCADE, QWEN, QWEN_VL
from polymodal.data.tokenizer import Tokenizer
from polymodal.data.tokenizer_files import CLASS_OF_MODEL_TYPE, PLAIN, PLAIN_MODEL_TYPES, READERS, read_tokenizer
from tokenizer_samples import (
    LLAMA,
    SENTENCES,
    SPECIALS,
    T5,
    bpe_files,
    model_file,
    rank_file,
    ranks,
    train,
    word_pieces,
    write,
)

letters = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
words = st.text("aA bZ 09.,'!\n\t\x1f\x85 éß▁<>|中🙂", max_size=12)
typed = st.lists(letters | words | st.sampled_from([*SPECIALS, *SENTENCES]), max_size=5).map("".join)

IMAGE = {"content": "<image>", "lstrip": False, "rstrip": False, "normalized": False, "single_word": False,
         "special": True}  # fmt: skip
LLAVA_BOS = {"__type": "AddedToken", "content": "<s>", "lstrip": False, "normalized": False, "rstrip": False,
             "single_word": False}  # fmt: skip


@lru_cache
def model(kind: str) -> bytes:
    """A sentencepiece model with what the stored ones lack; needs the sentencepiece package."""
    return {
        "nmt_nfkc": lambda: train(**T5),
        "spaces": lambda: train(**{**LLAMA, "remove_extra_whitespaces": True, "byte_fallback": False}),
        "own pieces": lambda: train(**LLAMA, user_defined_symbols=["<img>", "</img>"], control_symbols=["<box>"]),
        "no prefix": lambda: train(**LLAMA, add_dummy_prefix=False, pad_id=3),
        "bytes": lambda: train(**{**T5, "byte_fallback": True, "normalization_rule_name": "identity",
                                  "remove_extra_whitespaces": False}),
        "llama": lambda: model_file("llama"),
        "t5": lambda: model_file("t5"),
    }[kind]()  # fmt: skip


def named(name: str | None, **options: Any) -> dict[str, Any]:
    return {"tokenizer_config.json": {**({"tokenizer_class": name} if name else {}), **options}}


def of_type(model_type: str) -> dict[str, Any]:
    return {"config.json": {"model_type": model_type}}


def llama_like(kind: str, *parts: dict[str, Any], file: str = "tokenizer.model") -> Any:
    return lambda: {file: model(kind), **{name: table for part in parts for name, table in part.items()}}


PIECES: dict[str, Any] = {
    "llama": llama_like("llama", named("LlamaTokenizer")),
    "llama legacy": llama_like("llama", named("LlamaTokenizer", legacy=True, add_prefix_space=True)),
    "llama without prefix": llama_like("llama", named("LlamaTokenizerFast", add_prefix_space=False)),
    "llama own pieces": llama_like("own pieces", named("LlamaTokenizer", pad_token="<pad>")),
    "llava-v1.5": llama_like("llama", named("LlamaTokenizer", bos_token=LLAVA_BOS, legacy=False, pad_token=None),
                             of_type("llava_llama"), {"special_tokens_map.json": {"pad_token": "<unk>"}}),
    "llava": llama_like("llama", named("LlamaTokenizer", added_tokens_decoder={"600": IMAGE}), of_type("llava")),
    "llava not legacy": llama_like("spaces", named("LlamaTokenizer", legacy=False), of_type("llava_next")),
    "xcomposer": llama_like("llama", named("PreTrainedTokenizerFast"), {"added_tokens.json": {"<image>": 600}}),
    "nothing said": llama_like("own pieces"),
    "no prefix": llama_like("no prefix", named(None, image_token="<image>", extra_special_tokens={})),
    "plain unigram": llama_like("nmt_nfkc", named(None)),
    "plain unigram of bytes": llama_like("bytes", named(None), of_type("fuyu")),
    "gemma": llama_like("no prefix", named("GemmaTokenizer")),
    "gemma by type": llama_like("no prefix", of_type("gemma")),
    "t5": llama_like("nmt_nfkc", named("T5Tokenizer"), file="spiece.model"),
    "t5 by type": llama_like("t5", of_type("t5"), file="spiece.model"),
    "flan of blip-2": llama_like("nmt_nfkc", named("T5Tokenizer", extra_ids=100, additional_special_tokens=[
                                     f"<extra_id_{index}>" for index in range(100)]),
                                 {"added_tokens.json": {"<image>": 352}}, of_type("blip-2"), file="spiece.model"),
    "t5 without sentinels": llama_like("t5", named("T5Tokenizer", extra_ids=0), file="spiece.model"),
    "xlm_roberta": llama_like("nmt_nfkc", named("XLMRobertaTokenizer"), file="sentencepiece.bpe.model"),
    "xlm_roberta by type": llama_like("t5", of_type("xlm-roberta"), file="sentencepiece.bpe.model"),
}  # fmt: skip

GPT2, BART = bpe_files("<|endoftext|>"), bpe_files("<s>", "<pad>", "</s>", "<unk>", "<mask>")
CLIP = bpe_files("<|startoftext|>", "<|endoftext|>", suffix="</w>")
OPT = {"__type": "AddedToken", "content": "</s>", "lstrip": False, "normalized": True, "rstrip": False,
       "single_word": False}  # fmt: skip
QWEN2_ADDED = {
    "701": {**IMAGE, "content": "<|im_start|>"}, "702": {**IMAGE, "lstrip": True, "rstrip": True},
    "703": {**IMAGE, "content": "cat", "special": False, "single_word": True},
}  # fmt: skip
WORDS: dict[str, Any] = {
    **{name: lambda name=name: {**GPT2, **named(name)}
       for name in ("GPT2Tokenizer", "GPTNeoXTokenizer", "Qwen2Tokenizer", "WhisperTokenizer", "CodeGenTokenizer")},
    **{name: lambda name=name: {**BART, **named(name)}
       for name in ("RobertaTokenizer", "BartTokenizer", "LongformerTokenizer")},
    "gpt2 with prefix": lambda: {**GPT2, **named("GPT2TokenizerFast", add_prefix_space=True)},
    "opt": lambda: {**BART, **named("GPT2Tokenizer", bos_token=OPT, eos_token=OPT, unk_token=OPT, pad_token="<pad>"),
                    **of_type("opt")},
    "qwen2 added": lambda: {**GPT2, **named("Qwen2Tokenizer", added_tokens_decoder=QWEN2_ADDED), **of_type("qwen2_vl")},
    "clip": lambda: {**CLIP, **named("CLIPTokenizer", errors="replace")},
    **{name: lambda name=name: {**GPT2, **of_type(name)} for name in ("gpt2", "opt", "blip-2", "whisper", "gpt_neox")},
    "clip by type": lambda: {**CLIP, **of_type("clip")},
    "bart by type": lambda: {**BART, **of_type("bart")},
    **{name: lambda name=name: {"vocab.txt": word_pieces(), **named(name)} for name in READERS["WordPiece"]
       if name != "CPMBeeTokenizer"},  # none of the library's; tests/systems/test_viscpm.py compares it
    "bert cased": lambda: {"vocab.txt": word_pieces(), **named("BertTokenizer", do_lower_case=False)},
    "bert accents": lambda: {"vocab.txt": word_pieces().replace("\n", " \r\n"),
                             **named("BertTokenizer", strip_accents=False, tokenize_chinese_chars=False)},
    "vilt": lambda: {"vocab.txt": word_pieces(), **of_type("vilt")},
    "blip": lambda: {"vocab.txt": word_pieces(), **of_type("blip"), "added_tokens.json": {"[DEC]": 369, "[ENC]": 370}},
}  # fmt: skip


@pytest.fixture(scope="module")
def pair(tmp_path_factory: Any) -> Any:
    """case -> our tokenizer and the library's, made once."""
    transformers = pytest.importorskip("transformers")
    transformers.logging.set_verbosity_error()

    @lru_cache
    def of(case: str) -> tuple[Tokenizer, Any]:
        if case in PIECES:
            pytest.importorskip("google.protobuf")
            pytest.importorskip("sentencepiece")
        folder = write(tmp_path_factory.mktemp("parity"), (PIECES | WORDS)[case]())
        return read_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)

    return of


def compare(ours: Tokenizer, theirs: Any, text: str) -> None:
    expected = theirs.encode(text, add_special_tokens=False)
    assert ours.encode(text, allow_special=True) == expected
    assert ours.decode(expected, skip_special=False) == theirs.decode(expected)
    expected = theirs.encode(text, add_special_tokens=False, split_special_tokens=True)
    # Theirs lets a person write "</s>" where the vocabulary holds it as a word; ours spells it out, on purpose.
    if ours._reachable.isdisjoint(expected):
        assert ours.encode(text) == expected
    else:
        assert ours._reachable.isdisjoint(ours.encode(text))


@pytest.mark.parametrize("case", PIECES | WORDS)
def test_ids_equal_transformers(case: str, pair: Any) -> None:
    ours, theirs = pair(case)
    assert (ours.bos_id, ours.eos_id, ours.pad_id) == (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id)
    assert ours.vocab_size == len(theirs)
    special = {token.content: index for index, token in theirs.added_tokens_decoder.items() if token.special}
    assert ours.special_tokens == special
    for text in SENTENCES:
        compare(ours, theirs, text)


@pytest.mark.parametrize(
    "case",
    ["llama", "llama own pieces", "llava", "nothing said", "no prefix", "gemma", "t5", "xlm_roberta",
     "plain unigram of bytes", "GPT2Tokenizer", "qwen2 added", "clip", "BertTokenizer"],
)  # fmt: skip
@given(text=typed)
@settings(max_examples=60, deadline=None)
def test_any_text_has_the_ids_of_transformers(case: str, pair: Any, text: str) -> None:
    compare(*pair(case), text)


# ---- the sentencepiece library itself ----


@lru_cache
def plain_pair(kind: str, folder: Path) -> tuple[Tokenizer, Any]:
    import sentencepiece

    ours = read_tokenizer(write(folder, {"tokenizer.model": model(kind)}))
    return ours, sentencepiece.SentencePieceProcessor(model_proto=model(kind))


@pytest.mark.parametrize("kind", ["llama", "spaces", "no prefix", "bytes"])
@given(text=typed)
@settings(max_examples=100, deadline=None)
def test_a_model_alone_encodes_as_sentencepiece(kind: str, tmp_path_factory: Any, text: str) -> None:
    pytest.importorskip("sentencepiece")
    ours, theirs = plain_pair(kind, tmp_path_factory.getbasetemp() / f"plain {kind}")
    # Typed pieces of bytes, control and unknown pieces are found by Unigram of the tokenizers library; spaces typed as
    # U+2581 are not collapsed by it.
    if kind == "llama" or not any(mark in text for mark in ("<unk>", "</s>", "<s>", "<pad>", "<0x", "▁")):
        assert ours.encode(text) == theirs.encode(text)


@pytest.mark.parametrize("name", ["InternLMTokenizer", "InternLM2Tokenizer", "InternLMXComposerTokenizer"])
def test_known_code_of_others_reads_the_model_alone(name: str, tmp_path: Path) -> None:
    spm = pytest.importorskip("sentencepiece").SentencePieceProcessor(model_proto=model_file("llama"))
    code = named(name, auto_map={"AutoTokenizer": ["their.Tokenizer", None]})
    files = {"tokenizer.model": model_file("llama"), "added_tokens.json": {"<ITG>": 600, "<SOI>": 601}, **code}
    found = read_tokenizer(write(tmp_path / "x", files))
    for text in SENTENCES:
        assert found.encode(text) == spm.encode(text)
        if "<" not in text:
            assert found.encode(f"<ITG>{text}<SOI>", allow_special=True) == [600, *spm.encode(text), 601]


# ---- tiktoken ----


@lru_cache
def rank_pair(folder: Path) -> tuple[Tokenizer, Any]:
    import tiktoken

    files = {"qwen.tiktoken": rank_file(), **named("QWenTokenizer"), "config.json": {"visual": {"width": 8}}}
    special = {name: len(ranks()) + place for place, name in enumerate((*QWEN, *QWEN_VL))}
    theirs = tiktoken.Encoding("tiny", pat_str=QWEN2_WORDS, mergeable_ranks=ranks(), special_tokens=special)
    return read_tokenizer(write(folder, files)), theirs


@given(text=typed)
@settings(max_examples=150, deadline=None)
def test_ranks_encode_as_tiktoken(tmp_path_factory: Any, text: str) -> None:
    pytest.importorskip("tiktoken")
    ours, theirs = rank_pair(tmp_path_factory.getbasetemp() / "ranks")
    normal = unicodedata.normalize("NFC", text)
    # Marks of boxes are words of a question, as in the published code; others are plain text when a user types them.
    marks = {"<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"}
    assert ours.encode(text) == theirs.encode(normal, allowed_special=marks, disallowed_special=())
    if ours.decode(theirs.encode(normal, allowed_special="all")) and ">\u0338" not in text:
        assert ours.encode(text, allow_special=True) == theirs.encode(normal, allowed_special="all")


def test_arcade100k_leaves_an_id_free_behind_its_ranks(tmp_path: Path) -> None:
    """As tokenization_arcade100k.py of StableLM 2: 100256 ranks, `<|endoftext|>` at 100257, Qwen's words."""
    tiktoken = pytest.importorskip("tiktoken")
    ours = read_tokenizer(write(tmp_path / "x", {"arcade100k.tiktoken": rank_file(), **named("Arcade100kTokenizer")}))
    base = len(ranks())
    special = {name: base + 1 + place for place, name in enumerate(ARCADE)}
    theirs = tiktoken.Encoding("tiny", pat_str=QWEN2_WORDS, mergeable_ranks=ranks(), special_tokens=special)
    assert ours.special("<|endoftext|>") == base + 1 and ours.special("<|extra0|>") == base + 32
    for text in (*SENTENCES, "<|im_start|>a<|pause|>b<|endoftext|>"):
        normal = unicodedata.normalize("NFC", text)
        assert ours.encode(text, allow_special=True) == theirs.encode(normal, allowed_special="all")


def test_llama_3_rank_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tokenizer.model as a rank file, with gaps among the added tokens."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("sentencepiece")
    base = len(ranks())
    added = {str(base + place): {**IMAGE, "content": f"<|{place}|>"} for place in (0, 1, 4)}
    files = {"tokenizer.model": rank_file().encode(), **named("PreTrainedTokenizerFast", added_tokens_decoder=added)}
    folder = write(tmp_path / "llama3", files)
    ours, theirs = read_tokenizer(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert ours.vocab_size == len(theirs) == base + 5 and ours.special("<|4|>") == base + 4
    for text in (*SENTENCES, "<|0|>a<|4|>", f"<|reserved_token_{base + 2}|>"):
        compare(ours, theirs, text)


# ---- which class AutoTokenizer takes ----


def test_classes_of_model_types_are_those_of_transformers() -> None:
    auto = pytest.importorskip("transformers.models.auto.tokenization_auto")
    for model_type, name in CLASS_OF_MODEL_TYPE.items():
        theirs = auto.TOKENIZER_MAPPING_NAMES.get(model_type, name)
        assert theirs in (name, "BartTokenizer" if name == "RobertaTokenizer" else name), model_type
    assert not PLAIN_MODEL_TYPES & CLASS_OF_MODEL_TYPE.keys()
    theirs_plain = {
        key for key, name in auto.TOKENIZER_MAPPING_NAMES.items() if name in (PLAIN, "MistralCommonBackend")
    }
    assert theirs_plain >= PLAIN_MODEL_TYPES


def test_saved_again_the_ids_stay(pair: Any, tmp_path: Path) -> None:
    """What the library writes after reading such a folder is a tokenizer.json with the same ids."""
    ours, theirs = pair("qwen2 added")
    theirs.save_pretrained(tmp_path)
    again = read_tokenizer(tmp_path)
    assert json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["model"]["type"] == "BPE"
    assert all(again.encode(text) == ours.encode(text) for text in SENTENCES)
    assert (again.eos_id, again.pad_id, again.special_tokens) == (ours.eos_id, ours.pad_id, ours.special_tokens)
