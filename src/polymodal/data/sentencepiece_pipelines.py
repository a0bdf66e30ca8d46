"""Sentencepiece models as pipelines of the `tokenizers` library, one function for each way they are published.

    SentencePieceModel, TokenSettings -> normaliser | words | BPE or Unigram | decoder -> Vocabulary

`plain` follows the model file alone and encodes like the sentencepiece library.  The others are what the tokenizer
classes of transformers make of the same file: LlamaTokenizer, GemmaTokenizer, T5Tokenizer, XLMRobertaTokenizer.
Traps: a BPE file has no list of merges, every cut of a piece into two pieces is one, and the scores say which go
first; T5 has 100 pieces behind its file, XLM-R's file begins one id too early; "legacy" puts a space in front of each
part between special tokens, else only the first part gets one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Pipeline

from polymodal.data.sentencepiece import CONTROL, NORMAL, USER_DEFINED, SentencePieceModel
from polymodal.data.token_settings import TokenSettings
from polymodal.data.tokenizer_parts import bounded, check_count
from polymodal.errors import ConfigError, WeightsError

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
MAX_WHOLE = 1 << 12  # pieces that are looked for one by one; published: a few hundred
EXTRA_IDS = 100  # T5's sentinels


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """A pipeline before its special tokens are added.

    roles: the special tokens that the tokenizer's class gives where no file speaks of them.  control: those that the
    vocabulary file has itself.  raw: tokens with a given id are looked for in the text as it was typed, whatever their
    flag says, so that each part between them gets a space in front.
    """

    pipeline: Pipeline
    roles: Mapping[str, str | None] = field(default_factory=dict)
    control: tuple[AddedToken, ...] = ()
    raw: bool = False


def plain(model: SentencePieceModel, settings: TokenSettings) -> Vocabulary:
    """As the sentencepiece library encodes; `legacy` (true unless the settings say otherwise) as described above."""
    legacy = settings.option("legacy", bool, True)
    pipeline = Pipeline(_scored_bpe(model) if model.algorithm == "bpe" else _unigram(model, model.unknown))
    steps: list[normalizers.Normalizer] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.collapse_spaces:  # spaces only: other white space stays; runs first, or a long one costs its square
        steps += [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Replace(Regex(r"\A | \z"), "")]
    if model.escape_spaces:
        steps.append(normalizers.Replace(" ", SPACE))
    if model.dummy_prefix and legacy:  # Metaspace puts none before a text that begins with one
        steps.append(normalizers.Replace(Regex(rf"\A{SPACE}"), SPACE * 2))
    pipeline.normalizer = normalizers.Sequence(steps)
    split = []
    if model.dummy_prefix:
        split.append(_metaspace("always" if legacy else "first"))
    whole = [text for _, text in model.of_kind(USER_DEFINED)]
    check_count(len(whole), MAX_WHOLE, "pieces that are never merged")
    if whole:  # never merged with their neighbours
        either = "|".join(re.escape(text) for text in sorted(whole, key=len, reverse=True))
        split.append(pre_tokenizers.Split(Regex(either), behavior="isolated"))
    if split:
        pipeline.pre_tokenizer = pre_tokenizers.Sequence(split)
    pipeline.decoder = _decoder(byte_fallback=model.byte_fallback, dummy_prefix=model.dummy_prefix)
    control = tuple(_added(text, special=True) for _, text in model.of_kind(CONTROL))
    roles = {role: text for role, text in model.roles.items() if role != "pad"}
    return Vocabulary(pipeline=pipeline, roles=roles, control=control, raw=model.dummy_prefix)


def llama(model: SentencePieceModel, settings: TokenSettings) -> Vocabulary:
    """LlamaTokenizer: BPE whose merges go by id, bytes for what is unknown, text as it is."""
    if model.algorithm != "bpe":  # transformers 5 makes merges of a Unigram file: ids that no model was trained with
        return plain(model, settings)
    vocabulary = _ids(model)
    merges = _merges(vocabulary, vocabulary)
    prefix = settings.option("add_prefix_space", bool, True)
    legacy = settings.option("legacy", bool, False)
    pipeline = Pipeline(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=True, byte_fallback=True))
    pipeline.pre_tokenizer = _metaspace(("always" if legacy else "first") if prefix else "never")
    pipeline.decoder = _decoder(byte_fallback=True, dummy_prefix=prefix)
    return Vocabulary(pipeline=pipeline, roles={"bos": "<s>", "eos": "</s>", "unk": "<unk>"}, control=_marked(model))


def chatglm(model: SentencePieceModel, settings: TokenSettings) -> Vocabulary:
    """ChatGLMTokenizer: line ends, tabs and runs of spaces are pieces of their own; else as the library encodes.

    Raises ConfigError for the first vocabulary, whose ids begin behind those of 20000 pieces of pictures.
    """
    if shift := settings.option("num_image_tokens", int, 0):
        raise ConfigError(f"tokenizer: num_image_tokens {shift} is not supported; expected 0, as since ChatGLM-6B v1.1")
    marks = {"\n": "<n>", "\t": "<|tab|>"} | {" " * count: f"<|blank_{count}|>" for count in range(80, 1, -1)}
    found = plain(model, settings)
    before = [normalizers.Replace(text, mark) for text, mark in marks.items()]
    behind = [decoders.Replace(mark, text) for text, mark in marks.items()]
    found.pipeline.normalizer = normalizers.Sequence([*before, found.pipeline.normalizer])
    found.pipeline.decoder = decoders.Sequence([found.pipeline.decoder, *behind])
    return found


def gemma(model: SentencePieceModel, settings: TokenSettings) -> Vocabulary:
    """GemmaTokenizer: as LLaMA's, without a space in front; each run of spaces is a word with what it follows."""
    if model.algorithm != "bpe":
        return plain(model, settings)
    vocabulary = _ids(model)
    unknown = settings.role("unk", "<unk>") or "<unk>"
    merges = _merges(vocabulary, vocabulary)
    pipeline = Pipeline(
        models.BPE(vocab=vocabulary, merges=merges, fuse_unk=True, byte_fallback=True, unk_token=unknown)
    )
    pipeline.normalizer = normalizers.Replace(" ", SPACE)
    pipeline.pre_tokenizer = pre_tokenizers.Split(" ", behavior="merged_with_previous")
    pipeline.decoder = _decoder(byte_fallback=True, dummy_prefix=False)
    roles = {"bos": "<bos>", "eos": "<eos>", "unk": "<unk>", "pad": "<pad>", "mask": "<mask>"}
    return Vocabulary(pipeline=pipeline, roles=roles, control=_marked(model))


def t5(model: SentencePieceModel, settings: TokenSettings) -> Vocabulary:
    """T5Tokenizer: Unigram on words between white space, <extra_id_99> to <extra_id_0> behind the file's pieces."""
    count = settings.option("extra_ids", int, EXTRA_IDS)
    if not 0 <= count <= 10_000:
        raise ConfigError(f"tokenizer: extra_ids is {count}, expected 0 to 10000")
    known = set(model.pieces)
    sentinels = [f"<extra_id_{index}>" for index in range(count)]
    behind = [name for name in reversed(sentinels) if name not in known]
    model = replace(model, pieces=(*model.pieces, *behind), scores=(*model.scores, *(0.0 for _ in behind)))
    pipeline = _words(model, unknown=2)
    control = (*_marked(model), *(_added(name, special=True) for name in sentinels))
    return Vocabulary(pipeline=pipeline, roles={"eos": "</s>", "unk": "<unk>", "pad": "<pad>"}, control=control)


def xlm_roberta(model: SentencePieceModel, settings: TokenSettings) -> Vocabulary:
    """XLMRobertaTokenizer: fairseq's four special tokens instead of the file's first three, <mask> behind all."""
    names = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
    first = [settings.role(role, names[role]) or names[role] for role in ("bos", "pad", "eos", "unk")]
    mask = settings.role("mask", "<mask>") or "<mask>"
    pieces = (*first, *model.pieces[3:], mask)
    model = replace(model, pieces=pieces, scores=(0.0,) * 4 + model.scores[3:] + (0.0,))
    pipeline = _words(model, unknown=3, prefix=settings.option("add_prefix_space", bool, True))
    return Vocabulary(pipeline=pipeline, roles={**names, "sep": "</s>", "cls": "<s>"}, control=_marked(model, first=3))


def renamed(model: SentencePieceModel, added_by_id: Mapping[int, AddedToken]) -> SentencePieceModel:
    """The model with the names that the files beside it give to some of its ids (ids kept free in training)."""
    names = {index: token.content for index, token in added_by_id.items() if index < len(model.pieces)}
    if all(model.pieces[index] == name for index, name in names.items()):
        return model
    kept = {text for index, text in enumerate(model.pieces) if index not in names}
    pieces = tuple(
        names[index] if index in names and names[index] not in kept else text for index, text in enumerate(model.pieces)
    )
    return replace(model, pieces=pieces) if len(set(pieces)) == len(pieces) else model


# ---- the parts ----


def _words(model: SentencePieceModel, *, unknown: int, prefix: bool = True) -> Pipeline:
    """Unigram on words between white space, each with a space in front."""
    pipeline = Pipeline(_unigram(model, unknown, byte_fallback=False))
    if model.charsmap:
        pipeline.normalizer = normalizers.Precompiled(model.charsmap)
    scheme = "always" if prefix else "never"
    space = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    pipeline.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), space])
    pipeline.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    return pipeline


def _unigram(model: SentencePieceModel, unknown: int, byte_fallback: bool | None = None) -> models.Unigram:
    if unknown >= len(model.pieces):
        raise WeightsError(f"tokenizer: the unknown piece is {unknown}, outside of {len(model.pieces)} pieces")
    fallback = model.byte_fallback if byte_fallback is None else byte_fallback
    return models.Unigram(list(zip(model.pieces, model.scores, strict=True)), unknown, fallback)


def _scored_bpe(model: SentencePieceModel) -> models.BPE:
    """BPE whose merges go by score, then id; only normal pieces are merged."""
    scored = sorted(model.of_kind(NORMAL), key=lambda item: (-model.scores[item[0]], item[0]))
    return models.BPE(
        vocab=_ids(model),
        merges=_merges([text for _, text in scored], {text for _, text in scored}),
        unk_token=model.pieces[model.unknown],
        fuse_unk=True,
        byte_fallback=model.byte_fallback,
        ignore_merges=bool(model.of_kind(USER_DEFINED)),
    )


def _ids(model: SentencePieceModel) -> dict[str, int]:
    return {text: index for index, text in enumerate(model.pieces)}


def _merges(pieces: Iterable[str], known: Mapping[str, int] | set[str]) -> list[tuple[str, str]]:
    """Every cut of a piece into two known ones; those of earlier pieces first, then those further left."""
    return bounded(
        (piece[:cut], piece[cut:])
        for piece in pieces
        for cut in range(1, len(piece))
        if piece[:cut] in known and piece[cut:] in known
    )


def _metaspace(scheme: str) -> pre_tokenizers.PreTokenizer:
    """Spaces as U+2581 without cutting there; the scheme says which parts get one in front."""
    return pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme, split=False)


def _decoder(*, byte_fallback: bool, dummy_prefix: bool) -> decoders.Decoder:
    """Pieces -> text, without the space that was put in front."""
    steps: list[decoders.Decoder] = [decoders.Replace(SPACE, " ")]
    if byte_fallback:
        steps.append(decoders.ByteFallback())
    if byte_fallback or dummy_prefix:
        steps.append(decoders.Fuse())
    if dummy_prefix:
        steps.append(decoders.Strip(content=" ", left=1))
    return decoders.Sequence(steps)


def _marked(model: SentencePieceModel, first: int = 0) -> tuple[AddedToken, ...]:
    """The file's control pieces, which are special, and user defined ones, which are not."""
    special = dict(model.of_kind(CONTROL))
    marked: Sequence[tuple[int, str]] = model.of_kind(CONTROL, USER_DEFINED)
    return tuple(_added(text, special=index in special) for index, text in marked if index >= first)


def _added(text: str, *, special: bool) -> AddedToken:
    return AddedToken(text, normalized=False, special=special)
