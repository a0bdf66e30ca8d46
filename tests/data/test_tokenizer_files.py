"""A folder's tokenizer without any oracle: which file is read, what the files beside it say, refusals, streams."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.data import vocabulary_files
from polymodal.data.tiktoken_file import QWEN, QWEN_AUDIO, QWEN_VL
from polymodal.data.tokenizer import Tokenizer, iterate_text
from polymodal.data.tokenizer_files import KINDS, lacks_vocabulary, read_tokenizer
from polymodal.errors import ConfigError, PolymodalError, PromptError, UnknownName, WeightsError
from tokenizer_samples import FIXTURES, SENTENCES, SPECIALS, bpe_files, model_file, rank_file, ranks, word_pieces, write


def config(name: str | None, **options: Any) -> dict[str, Any]:
    return {"tokenizer_config.json": {**({"tokenizer_class": name} if name else {}), **options}}


def token(content: str, special: bool = True, normalized: bool = False) -> dict[str, Any]:
    return {"content": content, "special": special, "normalized": normalized, "lstrip": False, "rstrip": False,
            "single_word": False}  # fmt: skip


GPT2 = bpe_files("<|endoftext|>")
FOLDERS: dict[str, dict[str, Any]] = {
    "plain": {"tokenizer.model": model_file("llama")},
    "llama": {"tokenizer.model": model_file("llama"), **config("LlamaTokenizer", pad_token="<unk>")},
    "gemma": {"tokenizer.model": model_file("llama"), **config("GemmaTokenizer")},
    "t5": {"spiece.model": model_file("t5"), **config("T5Tokenizer")},
    "xlm_roberta": {"sentencepiece.bpe.model": model_file("t5"), **config("XLMRobertaTokenizerFast")},
    "gpt2": {**GPT2, **config("GPT2Tokenizer")},
    "roberta": {**bpe_files("<s>", "<pad>", "</s>", "<unk>", "<mask>"), **config("RobertaTokenizer")},
    "clip": {**bpe_files("<|startoftext|>", "<|endoftext|>", suffix="</w>"), "config.json": {"model_type": "clip"}},
    "qwen2": {**GPT2, **config("Qwen2Tokenizer"), "added_tokens.json": {"<|im_start|>": 701}},
    "bert": {"vocab.txt": word_pieces(), **config("BertTokenizer")},
    "qwen": {"qwen.tiktoken": rank_file(), **config("QWenTokenizer")},
    "arcade100k": {"arcade100k.tiktoken": rank_file(), **config("Arcade100kTokenizer")},
    "emu3": {"emu3.tiktoken": rank_file(), "emu3_vision_tokens.txt": "<|image start|>\n\n<|image end|>\n",
             **config("Emu3Tokenizer")},
    "llama3": {"tokenizer.model": rank_file().encode(), **config(None)},
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: Any) -> dict[str, Tokenizer]:
    place = tmp_path_factory.mktemp("kinds")
    return {name: read_tokenizer(write(place / name, files)) for name, files in FOLDERS.items()}


typed = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=("Cs",)), max_size=12), st.sampled_from([*SPECIALS, *SENTENCES])
    ),
    max_size=5,
).map("".join)


@pytest.mark.parametrize("kind", FOLDERS)
@given(text=typed, seed=st.lists(st.integers(0, 10_000), max_size=30), skip=st.booleans())
@settings(max_examples=40, deadline=None)
def test_streams_join_to_the_decoded_text(kind: str, tokenizers: Any, text: str, seed: list[int], skip: bool) -> None:
    tokenizer = tokenizers[kind]
    for ids in (tokenizer.encode(text, allow_special=True), [number % tokenizer.vocab_size for number in seed]):
        assert "".join(iterate_text(tokenizer, ids, skip)) == tokenizer.decode(ids, skip)


@pytest.mark.parametrize("kind", [kind for kind in FOLDERS if kind not in ("t5", "xlm_roberta", "clip", "bert")])
def test_text_comes_back(kind: str, tokenizers: Any) -> None:
    tokenizer = tokenizers[kind]
    for text in SENTENCES:
        if not (text.startswith(" ") or "▁" in text or "\u0301" in text or "Å" in text):
            assert tokenizer.decode(tokenizer.encode(text)) == text
            assert tokenizer.special_ids.isdisjoint(tokenizer.encode(text))


@pytest.mark.parametrize("kind", FOLDERS)
@given(text=typed)
@settings(max_examples=40, deadline=None)
def test_what_is_typed_never_gives_a_special_id(kind: str, tokenizers: Any, text: str) -> None:
    tokenizer = tokenizers[kind]
    ids = tokenizer.encode(text)
    unknown = {tokenizer.special(name) for name in ("<unk>", "[UNK]") if name in tokenizer.special_tokens}
    # The unknown token is harmless, and CLIP's is its end of text too.
    assert not tokenizer.special_ids.intersection(ids) - unknown or kind == "clip"


def test_ids_and_names_of_each_kind(tokenizers: Any) -> None:
    found = {kind: (t.vocab_size, t.bos_id, t.eos_id, t.pad_id) for kind, t in tokenizers.items()}
    base = len(ranks())
    assert found == {
        "plain": (600, 1, 2, None), "llama": (600, 1, 2, 0), "gemma": (604, 600, 601, 602), "t5": (352, None, 1, 0),
        "xlm_roberta": (254, 0, 2, 1), "gpt2": (701, 700, 700, None), "roberta": (705, 700, 702, 701),
        "clip": (found["clip"][0], found["clip"][0] - 2, found["clip"][0] - 1, found["clip"][0] - 1),
        "qwen2": (702, None, 700, 700), "bert": (found["bert"][0], None, None, 0),
        "qwen": (base + 208, None, base, base), "emu3": (base + 210, base + 206, base + 207, base),
        "llama3": (base, None, None, None), "arcade100k": (base + 33, None, base + 1, base + 1),
    }  # fmt: skip
    assert tokenizers["t5"].special("<extra_id_0>") == 351 and tokenizers["t5"].special("<extra_id_99>") == 252
    assert tokenizers["qwen2"].special_tokens == {"<|endoftext|>": 700}  # added_tokens.json does not call it special
    assert tokenizers["emu3"].special("<|image end|>") == base + 209
    assert tokenizers["clip"].decode(tokenizers["clip"].encode("The  cat, IS")) == "the cat , is"
    assert tokenizers["bert"].decode(tokenizers["bert"].encode("The cats")) == "the cats"


def test_a_text_with_unknown_letters_is_no_mistake(tokenizers: Any) -> None:
    assert tokenizers["t5"].encode("ꙮ") == [3, 2]


def test_control_tokens_that_are_pieces_are_spelt_out(tokenizers: Any) -> None:
    """As the sentencepiece library reads what is typed: control pieces are never made of it."""
    expected = json.loads((FIXTURES / "ids.json").read_text(encoding="utf-8"))["t5"]
    for text in ("<s>hello</s> world", "a</s>b", "<extra_id_0> and <extra_id_99>", "[CLS] a [SEP][MASK]"):
        assert tokenizers["t5"].encode(text) == expected[text], text
    assert tokenizers["t5"].encode("</s>") == [3, 2, 8, 2]


def test_qwen_of_pictures_and_of_sound(tmp_path: Path) -> None:
    base, files = len(ranks()), FOLDERS["qwen"]
    start = base + len(QWEN) + QWEN_VL.index("<img>")
    vision = read_tokenizer(write(tmp_path / "vl", {**files, "config.json": {"visual": {"image_start_id": start}}}))
    assert [vision.special(name) for name in ("<img>", "<imgpad>")] == [start, start + 2]
    # Marks of boxes are typed and answered; those of pictures and turns are not.
    assert vision.encode("<ref>a</ref>")[::2] == [base + 208, base + 209]
    assert vision.decode(vision.encode("<box>(1,2)</box>")) == "<box>(1,2)</box>"
    assert not vision.special_ids.intersection(vision.encode("<img><|im_end|>"))
    begin = base + len(QWEN) + QWEN_AUDIO.index("<audio>")
    sound = read_tokenizer(write(tmp_path / "audio", {**files, "config.json": {"audio": {"audio_start_id": begin}}}))
    assert sound.encode("<|0.00|><|0.01|>") == [base + 208 + 20, base + 208 + 21] and sound.vocab_size == begin + 2
    # The published numbers, with the 151,643 tokens of the published file.
    assert (151_643 + start - base, 151_643 + begin - base) == (151_857, 155_163)
    with pytest.raises(WeightsError, match=r"'<img>' at \d+, config.json says image_start_id 5; they are of different"):
        read_tokenizer(write(tmp_path / "vl", {"config.json": {"visual": {"image_start_id": 5}}}))


def test_tokenizer_json_comes_first_and_keeps_its_names(tmp_path: Path, tokenizers: Any) -> None:
    files = {**FOLDERS["llama"], "tokenizer.json": tokenizers["gpt2"]._pipeline.to_str(),
             **config("LlamaTokenizer", eos_token=token("<|endoftext|>"))}  # fmt: skip
    folder = write(tmp_path / "both", files)
    assert lacks_vocabulary(folder) is None
    found = read_tokenizer(folder, added=("<a>", "<|endoftext|>", "<b>"), pad="<b>")
    assert (found.eos_id, found.pad_id, found.special("<a>")) == (700, 702, 701) and found.knows("<a>")
    write(folder, {"special_tokens_map.json": {"pad_token": "<|endoftext|>", "bos_token": "<nowhere>"}})
    assert (read_tokenizer(folder).pad_id, read_tokenizer(folder).bos_id) == (700, None)
    write(folder, config(None, bos_token="<nowhere>"))
    with pytest.raises(UnknownName, match="<nowhere>"):
        read_tokenizer(folder)


def test_files_beside_the_vocabulary(tmp_path: Path) -> None:
    """Roles, extra tokens, ids and flags, from the newer table and from the older files."""
    added_by_id = {"2": token("</s>"), "600": token("<image>"), "601": token("<y>", False)}
    newer = config("LlamaTokenizer", additional_special_tokens=["<x>"], image_token="<image>", pad_token="",
                   added_tokens_decoder=added_by_id)  # fmt: skip
    found = read_tokenizer(write(tmp_path / "new", {**FOLDERS["plain"], **newer}))
    assert found.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2, "<image>": 600, "<x>": 602}
    assert found.encode("<y>") == [601] and found.pad_id is None
    older = {**config("LlamaTokenizer", bos_token=None), "added_tokens.json": {"<y>": 600, "<image>": 601},
             "special_tokens_map.json": {"eos_token": {"content": "<y>"},
                                         "additional_special_tokens": ["<image>"]}}  # fmt: skip
    found = read_tokenizer(write(tmp_path / "old", {**FOLDERS["plain"], **older}))
    assert found.special_tokens == {"<unk>": 0, "<y>": 600, "<image>": 601}
    assert (found.bos_id, found.eos_id) == (None, 600)


def test_ids_kept_free_in_training_are_named_by_the_files_beside(tmp_path: Path) -> None:
    kept = config("InternLM2Tokenizer", auto_map={"AutoTokenizer": ["their.code", None]},
                  added_tokens_decoder={"300": token("<|im_end|>")})  # fmt: skip
    found = read_tokenizer(write(tmp_path / "x", {**FOLDERS["plain"], **kept}))
    assert found.special("<|im_end|>") == 300 and found.vocab_size == 600


WRONG: dict[str, tuple[dict[str, Any], type[PolymodalError], str]] = {
    "nothing": ({"config.json": {}}, WeightsError, r"has no tokenizer files, any of tokenizer\.json, tokenizer\.model"),
    "no merges": ({"vocab.json": GPT2["vocab.json"]}, WeightsError, "vocab.json with merges.txt"),
    "no class": (GPT2, ConfigError, r"has vocab\.json \(byte-level BPE\) but no tokenizer_class; expected one of GPT2"),
    "another class": ({**FOLDERS["bert"], **config("RoFormerTokenizer")}, ConfigError,
                      "vocab.txt.*'RoFormerTokenizer', which is not supported; expected one of BertTokenizer"),
    "their code": ({**FOLDERS["plain"], **config("BaichuanTokenizer", auto_map={"AutoTokenizer": ["x.y", None]})},
                   ConfigError, r"'BaichuanTokenizer', which is not supported \(code of the folder is not run\)"),
    "whisper ranks": ({"qwen.tiktoken": rank_file(), **config("WhisperTokenizer")}, ConfigError, "one of QWen"),
    "damaged config": ({**FOLDERS["plain"], "tokenizer_config.json": "{"}, WeightsError, "config.json is damaged"),
    "list config": ({**FOLDERS["plain"], "tokenizer_config.json": "[]"}, WeightsError, "expected a table, found list"),
    "deep config": ({**FOLDERS["plain"], "tokenizer_config.json": "[" * 100_000}, WeightsError, "is damaged"),
    "no token": ({**FOLDERS["plain"], **config(None, eos_token=7)}, ConfigError, "eos_token: '7' is not a token"),
    "no flag": ({**FOLDERS["plain"], **config(None, eos_token={"content": "a", "lstrip": 1})}, ConfigError, "a token"),
    "no list": ({**FOLDERS["plain"], **config(None, additional_special_tokens="<a>")}, ConfigError, "must be a list"),
    "no id": ({**FOLDERS["plain"], **config(None, added_tokens_decoder={"x": token("a")})}, ConfigError, "the id 'x'"),
    "no table": ({**FOLDERS["plain"], **config(None, added_tokens_decoder=[])}, ConfigError, "must be a table"),
    "id as text": ({**FOLDERS["plain"], "added_tokens.json": {"<a>": "6"}}, ConfigError, "has the id '6'"),
    "another id": ({**FOLDERS["plain"], "added_tokens.json": {"<a>": 700}}, WeightsError,
                   "gives '<a>' the id 700, but behind the vocabulary it is 600"),
    "far id": ({**FOLDERS["llama3"], **config(None, added_tokens_decoder={"4000000": token("<a>")})}, WeightsError,
               "gives '<a>' the id 4000000"),
    "no option": ({**FOLDERS["plain"], **config(None, legacy="no")}, ConfigError, "legacy must be a bool, found 'no'"),
    "extra ids": ({**FOLDERS["t5"], **config("T5Tokenizer", extra_ids=-1)}, ConfigError, "extra_ids is -1"),
    "no model": ({"tokenizer.model": b"any"}, WeightsError, "is not a sentencepiece model.*fetch it again"),
    "no ranks": ({**FOLDERS["qwen"], "qwen.tiktoken": "AA== 0\nx y z\n"}, WeightsError, "qwen.tiktoken line 2"),
    "few bytes": ({**FOLDERS["qwen"], "qwen.tiktoken": "AA== 0\n"}, WeightsError, "lacks the single byte 0x01"),
    "no tokens": ({"emu3.tiktoken": rank_file(), **config("Emu3Tokenizer")}, WeightsError, "no file.*vision_tokens"),
    "vocab list": ({**GPT2, **config("GPT2Tokenizer"), "vocab.json": "[]"}, WeightsError, "expected a table of tokens"),
    "vocab damaged": ({**GPT2, **config("GPT2Tokenizer"), "vocab.json": "{"}, WeightsError, "vocab.json is damaged"),
    "vocab ids": ({**GPT2, **config("GPT2Tokenizer"), "vocab.json": '{"a": 1.5}'}, WeightsError, "'a' the id 1.5"),
    "vocab gaps": ({**GPT2, **config("GPT2Tokenizer"), "vocab.json": '{"a": 1}', "merges.txt": ""}, WeightsError,
                   "gaps"),
    "merges": ({**GPT2, **config("GPT2Tokenizer"), "merges.txt": "a b c"}, WeightsError, "line 1: expected two tokens"),
    "other merges": ({**GPT2, **config("GPT2Tokenizer"), "merges.txt": "\n€ €"}, WeightsError, "merges.txt do not fit"),
    "no word": ({**FOLDERS["bert"], "vocab.txt": "a\nb\n"}, WeightsError, r"vocab.txt has no line '\[UNK\]'"),
    "no text": ({**FOLDERS["bert"], "vocab.txt": b"\xff\xfe"}, WeightsError, "cannot read.*vocab.txt.*Unicode"),
    "no json": ({"tokenizer.json": "{}"}, WeightsError, "is not a tokenizer.json"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_line(case: str, tmp_path: Path) -> None:
    files, error, words = WRONG[case]
    with pytest.raises(error, match=words) as caught:
        read_tokenizer(write(tmp_path / "x", files))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_nothing_is_read_beyond_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "x", FOLDERS["plain"])
    monkeypatch.setattr(vocabulary_files.read_bytes, "__defaults__", (1000,))
    with pytest.raises(WeightsError, match=r"tokenizer\.model has [\d,]+ bytes, the limit is 1,000"):
        read_tokenizer(folder)


def test_why_a_folder_has_no_tokenizer(tmp_path: Path) -> None:
    for name, kind in KINDS.items():
        folder = write(tmp_path / name, {name: "x", "merges.txt": ""})
        lack = lacks_vocabulary(folder)
        tells = kind in ("json", "sentencepiece") or name == "bee.txt"  # what needs no class to be read
        assert lack is None if tells else "no tokenizer_class" in (lack or "")
    assert lacks_vocabulary(write(tmp_path / "c", {**GPT2, "config.json": {"model_type": "opt"}})) is None
    assert lacks_vocabulary(write(tmp_path / "d", {**GPT2, "config.json": {"model_type": ["opt"]}})) is not None


@given(
    st.sampled_from(["gpt2", "bert", "qwen", "t5", "llama"]),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=5),
)
@settings(max_examples=60, deadline=None)
def test_damaged_files_are_refused_or_work(tmp_path_factory: Any, kind: str, changes: list) -> None:
    files = dict(FOLDERS[kind])
    for place, value in changes:
        names = sorted(files)
        name = names[place % len(names)]
        content = files[name]
        data = bytearray(content if isinstance(content, bytes) else
                         (content if isinstance(content, str) else json.dumps(content)).encode())  # fmt: skip
        data[place % len(data)] = value
        files[name] = bytes(data)
    folder = write(tmp_path_factory.mktemp("damage"), files)
    try:
        tokenizer = read_tokenizer(folder)
    except PolymodalError as problem:
        assert "\n" not in str(problem)
        return
    for text in SENTENCES:
        with suppress(PromptError):
            tokenizer.decode(tokenizer.encode(text, allow_special=True))


def test_a_long_run_of_spaces_takes_no_time(tokenizers: Any, tmp_path: Path) -> None:
    collapsed = read_tokenizer(write(tmp_path / "x", {"tokenizer.model": model_file("t5")}))
    text = f"a{' ' * 200_000}b"
    assert collapsed.encode(text) == collapsed.encode("a b")
    assert len(tokenizers["llama"].encode(text)) > 1
