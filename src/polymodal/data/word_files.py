"""Vocabularies as older tokenizers keep them: `vocab.json` with `merges.txt` (byte-level BPE), `vocab.txt` (WordPiece).

    vocab.json: token -> id; merges.txt: a pair a line, the first merge first  -> GPT-2, RoBERTa, CLIP, Qwen2, GPT-NeoX
    vocab.txt: a word piece a line, its id is the line                         -> BERT, CPM-Bee

The files do not say how text becomes words; the tokenizer's class does.
Traps: CLIP lower-cases, and writes `</w>` behind the last piece of a word; RoBERTa and GPT-2 differ in their special
tokens only; white space at the end of a line of vocab.txt does not belong to the piece, in merges.txt it does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Pipeline

from polymodal.data.byte_level import QWEN2_WORDS, gpt2_words, letters, split_then_bytes
from polymodal.data.sentencepiece_pipelines import Vocabulary
from polymodal.data.token_settings import TokenSettings
from polymodal.data.tokenizer_parts import bounded, check_count
from polymodal.data.vocabulary_files import MAX_VOCABULARY, read_text
from polymodal.errors import WeightsError
from polymodal.files import read_json

MERGES = "merges.txt"
MAX_IDS = 1 << 24
CPM_BEE_SPACES = {"</n>": "\n", "</_>": " "}  # how its file writes them
CPM_BEE_RUN = 1000  # signs without a cut; what is longer becomes one unknown word
CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
OUTSIDE = r"\A[\s\x1c-\x1f]+|[\s\x1c-\x1f]+\z"  # the white space that Python strips
_END = "<|endoftext|>"
BERT_ROLES = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
ROBERTA_ROLES = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "sep": "</s>", "pad": "<pad>", "cls": "<s>",
                 "mask": "<mask>"}  # fmt: skip


def gpt2(path: Path, settings: TokenSettings, config: Mapping[str, Any]) -> Vocabulary:
    """GPT2Tokenizer (OPT, BLIP-2, Whisper): GPT-2's words."""
    pipeline = _byte_level(path)
    pipeline.pre_tokenizer = gpt2_words(settings.option("add_prefix_space", bool, False))
    return Vocabulary(pipeline=pipeline, roles={"bos": _END, "eos": _END, "unk": _END})


def roberta(path: Path, settings: TokenSettings, config: Mapping[str, Any]) -> Vocabulary:
    """RobertaTokenizer and BartTokenizer: GPT-2's words, BERT's special tokens."""
    return Vocabulary(pipeline=gpt2(path, settings, config).pipeline, roles=ROBERTA_ROLES)


def gpt_neox(path: Path, settings: TokenSettings, config: Mapping[str, Any]) -> Vocabulary:
    """GPTNeoXTokenizer (MPT, Pythia): GPT-2's words of text in NFC."""
    found = gpt2(path, settings, config)
    found.pipeline.normalizer = normalizers.NFC()
    return Vocabulary(pipeline=found.pipeline, roles={**found.roles, "pad": "<|padding|>"})


def qwen2(path: Path, settings: TokenSettings, config: Mapping[str, Any]) -> Vocabulary:
    """Qwen2Tokenizer: words of text in NFC, each digit its own."""
    pipeline = _byte_level(path)
    pipeline.normalizer = normalizers.NFC()
    prefix = settings.option("add_prefix_space", bool, False)
    pipeline.pre_tokenizer = split_then_bytes(QWEN2_WORDS, add_prefix_space=prefix)
    return Vocabulary(pipeline=pipeline, roles={"eos": _END, "unk": _END, "pad": _END})


def clip(path: Path, settings: TokenSettings, config: Mapping[str, Any]) -> Vocabulary:
    """CLIPTokenizer: lower case, white space as one space, `</w>` behind each word."""
    unknown = settings.role("unk", _END) or _END
    pipeline = _byte_level(path, unk_token=unknown, end_of_word_suffix="</w>")
    pipeline.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True)
    pipeline.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    # The letter of a space, so that the suffix survives the way back to bytes; `Strip` cannot take an empty text.
    space = decoders.Replace("</w>", letters()[ord(" ")])
    pipeline.decoder = decoders.Sequence([space, decoders.ByteLevel(), decoders.Replace(Regex(OUTSIDE), "")])
    return Vocabulary(pipeline=pipeline, roles={"bos": "<|startoftext|>", "eos": _END, "unk": _END, "pad": _END})


def bert(path: Path, settings: TokenSettings, config: Mapping[str, Any]) -> Vocabulary:
    """BertTokenizer and its namesakes: WordPiece on words and punctuation, lower case unless the settings say no."""
    lines = read_text(path).removesuffix("\n").split("\n")
    check_count(len(lines))
    unknown = settings.role("unk", "[UNK]") or "[UNK]"
    vocabulary = {line.rstrip(): index for index, line in enumerate(lines)}
    if unknown not in vocabulary:
        raise WeightsError(f"tokenizer: {path} has no line {unknown!r}; it is not a WordPiece vocabulary")
    pipeline = Pipeline(models.WordPiece(vocab=vocabulary, unk_token=unknown))
    pipeline.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.option("tokenize_chinese_chars", bool, True),
        strip_accents=settings.option("strip_accents", bool, None),
        lowercase=settings.option("do_lower_case", bool, True),
    )
    pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pipeline.decoder = decoders.WordPiece(prefix="##")
    return Vocabulary(pipeline=pipeline, roles=BERT_ROLES)


def cpm_bee(path: Path, settings: TokenSettings, config: Mapping[str, Any]) -> Vocabulary:
    """CPMBeeTokenizer: the longest piece that begins what is left, over words and spaces; unknown signs in one.

    WordPiece does that within what stands between two cuts, and gives one unknown token for it where a sign of it has
    no piece.  So text is cut where no piece can lie across: around runs of unknown signs and around signs that stand in
    no longer piece, and before spaces.  Raises WeightsError for a vocabulary in which these cuts could divide a piece.
    """
    lines = [line for line in read_text(path).split("\n") if line]
    check_count(len(lines))
    names = {CPM_BEE_SPACES.get(line, line): index for index, line in enumerate(lines)}
    marks = [name for name in names if name.startswith("<") and name.endswith(">") and len(name) > 2]
    longer = {sign for name in names if len(name) > 1 and name not in marks for sign in name}
    single = {name for name in names if len(name) == 1}
    if longer - single or any(" " in name[1:] for name in names):
        raise WeightsError(f"tokenizer: {path} has pieces of signs that are none themselves; it is not CPM-Bee's")
    if "<unk>" not in names:
        raise WeightsError(f"tokenizer: {path} has no line '<unk>'; it is not CPM-Bee's vocabulary")
    options: Any = {"continuing_subword_prefix": "", "max_input_chars_per_word": CPM_BEE_RUN}
    pipeline = Pipeline(models.WordPiece(vocab=names, unk_token="<unk>", **options))
    known, alone = _class(single), _class(single - longer - {" "})
    cuts = [pre_tokenizers.Split(Regex(f"[^{known}]+"), behavior="isolated")]
    if alone:
        cuts.append(pre_tokenizers.Split(Regex(f"[{alone}]"), behavior="isolated"))
    pipeline.pre_tokenizer = pre_tokenizers.Sequence([*cuts, pre_tokenizers.Split(" ", behavior="merged_with_next")])
    pipeline.decoder = decoders.Fuse()
    roles = {"bos": "<s>", "eos": "</s>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    return Vocabulary(
        pipeline=pipeline,
        roles=roles,
        control=tuple(AddedToken(each, special=True, normalized=False) for each in marks),
    )


def _class(signs: set[str]) -> str:
    """The inside of a class of a regular expression."""
    return "".join(f"\\x{{{ord(sign):x}}}" for sign in sorted(signs))


def _byte_level(path: Path, **options: Any) -> Pipeline:
    """BPE of a vocab.json and the merges.txt beside it; raises WeightsError when they are damaged or do not fit."""
    vocabulary = _vocabulary(path)
    check_count(len(vocabulary))
    merges = bounded(_merges(path.with_name(MERGES)))
    try:
        model = models.BPE(vocab=vocabulary, merges=merges, continuing_subword_prefix="", **options)
    except Exception as error:  # the library raises a bare Exception for a merge outside of the vocabulary
        raise WeightsError(f"tokenizer: {path} and {MERGES} do not fit ({str(error)[:120]})") from None
    pipeline = Pipeline(model)
    pipeline.decoder = decoders.ByteLevel()
    return pipeline


def _vocabulary(path: Path) -> dict[str, int]:
    """Token -> id of a vocab.json."""
    found = read_json(path, MAX_VOCABULARY)
    if not isinstance(found, dict) or not found:
        raise WeightsError(f"tokenizer: {path}: expected a table of tokens and ids, found {type(found).__name__}")
    if not all(type(index) is int and 0 <= index < MAX_IDS for index in found.values()):
        wrong = next(name for name, index in found.items() if type(index) is not int or not 0 <= index < MAX_IDS)
        raise WeightsError(f"tokenizer: {path} gives {wrong[:40]!r} the id {found[wrong]!r}; expected a number")
    return found


def _merges(path: Path) -> Iterator[tuple[str, str]]:
    """The pairs of a merges.txt, first to last."""
    for number, line in enumerate(read_text(path).removesuffix("\n").split("\n"), start=1):
        line = line.removesuffix("\r")
        if line.startswith("#version") or (not line and number == 1):
            continue
        pair = line.split(" ")
        if len(pair) != 2:
            raise WeightsError(f"tokenizer: {path} line {number}: expected two tokens, found {line[:40]!r}")
        yield pair[0], pair[1]
