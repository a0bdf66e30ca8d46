"""Text <-> token ids, with control tokens kept out of a user's reach.

Flow: tokenizer.json | GGUF metadata -> one `tokenizers` pipeline -> ids (data/tokenizer_files.py reads the other
files that a checkpoint may have).  There are two ways in:
`encode(text)` is for whatever a person typed and can never produce a control token, `special(name)` is for
templates and gives exactly one.
Traps: a byte-level vocabulary may lack some bytes (SmolLM2 lacks 21 of 256: those that never occur in UTF-8
text and a few control codes); they vanish, as they do in the published tokenizer, see `missing_bytes`.  Token
ids do not line up with characters: one id may hold half a character, which is why streams need `TokenStream`.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Encoding, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Pipeline

from polymodal.data.byte_level import LLAMA3_WORDS, QWEN2_WORDS, gpt2_words, letters, split_then_bytes
from polymodal.data.tokenizer_parts import (
    MAX_MERGES,
    MAX_TOKENS,
    checked_json,
    made_by_library,
    no_panic,
    try_out,
)
from polymodal.data.vocabulary_files import MAX_TOKENIZER_JSON, read_text
from polymodal.errors import ConfigError, PromptError, UnknownName, WeightsError

# GGUF token types (ggml's `llama_token_type`): 3 = control, 4 = user defined.
_GGUF_CONTROL, _GGUF_USER = 3, 4


def _pre_tokenizer(kind: str) -> pre_tokenizers.PreTokenizer:
    """The pre-tokeniser that GGUF calls `kind` (metadata `tokenizer.ggml.pre`)."""
    if kind in ("gpt-2", "default"):
        return gpt2_words()
    if kind == "smollm":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2_words()])
    if kind == "qwen2":
        return split_then_bytes(QWEN2_WORDS)
    if kind == "llama-bpe":
        return split_then_bytes(LLAMA3_WORDS)
    raise WeightsError(
        f"tokenizer: pre-tokeniser kind {kind!r} is not known; expected smollm, gpt-2, qwen2 or llama-bpe"
    )


class Tokenizer:
    """Text <-> ids on a `tokenizers` pipeline.

    Args: pipeline, the library's object; control, names that users must not be able to type although the file
    does not mark them as special (they become special here); added, the same, but put behind the vocabulary, in
    this order, where it lacks them (what official code adds when it runs); bos, eos, pad, names of those tokens,
    None where unused.  Raises: UnknownName when one of the names is not in the vocabulary, WeightsError for a pipeline
    that fails on a short text.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        control: Iterable[str] = (),
        added: Iterable[str] = (),
        bos: str | None = None,
        eos: str | None = None,
        pad: str | None = None,
    ) -> None:
        self._pipeline = pipeline
        control, added = tuple(control), tuple(added)
        try_out(pipeline)
        missing = [name for name in added if pipeline.token_to_id(name) is None]
        pipeline.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in missing])
        for name in control:
            if pipeline.token_to_id(name) is None:
                raise UnknownName(f"tokenizer: control token {name!r} is not in the vocabulary")
        pipeline.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in (*control, *added)])
        pipeline.encode_special_tokens = True  # what looks like a special token is encoded as plain text
        pipeline.no_truncation()
        pipeline.no_padding()
        tokens = pipeline.get_added_tokens_decoder()
        self._special = {token.content: i for i, token in tokens.items() if token.special}
        self._tokens = {token.content: token for token in tokens.values()}
        self.special_ids: frozenset[int] = frozenset(self._special.values())
        self.bos_id = None if bos is None else self.special(bos)
        self.eos_id = None if eos is None else self.special(eos)
        self.pad_id = None if pad is None else self.special(pad)

    @classmethod
    def from_file(cls, path: str | Path, **names: Any) -> "Tokenizer":
        """From a `tokenizer.json`; keywords as for the class.  Raises WeightsError for a damaged file."""
        return cls.from_json(read_text(Path(path), MAX_TOKENIZER_JSON), where=str(path), **names)

    @classmethod
    def from_json(cls, text: str, *, where: str = "tokenizer.json", **names: Any) -> "Tokenizer":
        """From the text of a `tokenizer.json`."""
        return cls(pipeline_of_json(text, where=where), **names)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any], **names: Any) -> "Tokenizer":
        """From GGUF metadata (key -> value), byte-level BPE vocabularies only; keywords as for the class.

        Reads `tokenizer.ggml.{model,pre,tokens,merges,token_type}` and the bos, eos and padding ids.
        Raises: WeightsError when a key is missing, of another kind, or the vocabulary contradicts itself.
        """
        kind = metadata.get("tokenizer.ggml.model")
        if kind != "gpt2":
            raise WeightsError(f"tokenizer: GGUF vocabulary is of kind {kind!r}; expected 'gpt2' (byte-level BPE)")
        tokens = _gguf_list(metadata, "tokenizer.ggml.tokens", str)
        merges = _gguf_list(metadata, "tokenizer.ggml.merges", str, MAX_MERGES)
        types = _gguf_list(metadata, "tokenizer.ggml.token_type", int)
        if len(set(tokens)) != len(tokens) or len(types) != len(tokens):
            raise WeightsError(
                f"tokenizer: GGUF has {len(set(tokens))} names and {len(types)} types for {len(tokens)} ids"
            )
        pre = metadata.get("tokenizer.ggml.pre", "default")
        pairs = [tuple(merge.split(" ")) for merge in merges]
        vocabulary = {token: i for i, token in enumerate(tokens)}
        model = made_by_library(
            "GGUF merges do not fit the vocabulary",
            lambda: models.BPE(vocab=vocabulary, merges=pairs, ignore_merges=pre == "llama-bpe"),
        )
        pipeline = Pipeline(model)
        pipeline.pre_tokenizer = _pre_tokenizer(pre)
        pipeline.decoder = decoders.ByteLevel()
        special = [
            AddedToken(t, special=True, normalized=False)
            for t, k in zip(tokens, types, strict=True)
            if k == _GGUF_CONTROL
        ]
        pipeline.add_special_tokens(special)
        pipeline.add_tokens(
            [AddedToken(t, normalized=False) for t, k in zip(tokens, types, strict=True) if k == _GGUF_USER]
        )

        def named(role: str) -> str | None:
            index = metadata.get(f"tokenizer.ggml.{role}_token_id")
            if index is not None and (type(index) is not int or not 0 <= index < len(tokens)):
                raise WeightsError(f"tokenizer: GGUF has {len(tokens)} tokens, its {role} is {str(index)[:40]}")
            return None if index is None else tokens[index]

        return cls(pipeline, **{"bos": named("bos"), "eos": named("eos"), "pad": named("padding"), **names})

    def to_json(self) -> str:
        """The text of a tokenizer.json; the names of bos, eos and pad are not in it."""
        return self._pipeline.to_str()

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included (a model's table may be padded beyond it)."""
        return self._pipeline.get_vocab_size(with_added_tokens=True)

    @property
    def special_tokens(self) -> Mapping[str, int]:
        """Name -> id of every token that only templates may write."""
        return dict(self._special)

    def knows(self, name: str) -> bool:
        """Whether the vocabulary has a token written `name`, special or not."""
        return self._pipeline.token_to_id(name) is not None

    @cached_property
    def missing_bytes(self) -> frozenset[int]:
        """Bytes that a byte-level vocabulary cannot write; empty for other kinds of vocabulary."""
        if not isinstance(self._pipeline.decoder, decoders.ByteLevel):
            return frozenset()
        vocabulary = self._pipeline.get_vocab()
        return frozenset(byte for byte, letter in enumerate(letters()) if letter not in vocabulary)

    @cached_property
    def fallback_ids(self) -> frozenset[int]:
        """Ids of the pieces <0x00> to <0xFF>, where the vocabulary writes unknown characters with them."""
        if "ByteFallback" not in str(self._pipeline.decoder):
            return frozenset()
        ids = (self._pipeline.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
        return frozenset(index for index in ids if index is not None)

    @cached_property
    def _trusting(self) -> Pipeline:
        """A second pipeline, made on demand, that does read special tokens out of text."""
        return _read_again(self._pipeline.to_str())

    def special(self, name: str) -> int:
        """Id of the special token written `name`; raises UnknownName with the nearest name."""
        if name in self._special:
            return self._special[name]
        near = get_close_matches(name, self._special, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UnknownName(f"tokenizer: no special token {name!r} among {len(self._special)}{hint}")

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Ids of `text`; no begin or end token is added.

        `allow_special=True` is for text from the template author only: "<|im_end|>" then becomes its one id.
        Raises: PromptError for text that is not valid Unicode or that would reach a special token as a word.
        """
        if allow_special:
            return _encoding(self._trusting, text).ids
        return self._plain(text).ids

    def encode_spans(self, text: str, *, first: bool = True) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids of `text` and the characters that each stands for, [begin, end); every character belongs to a token.

        first: the text begins its tokenizer call; False: a special token precedes it there, and a sentencepiece
        vocabulary that puts a space in front of the whole text only puts none here.  Raises as `encode` does.
        """
        encoding = self._plain(text, first)
        spans, reached = [], 0
        for begin, end in encoding.offsets:
            # White space that a pipeline trims off the offsets of a token belongs to it all the same.
            spans.append((min(begin, reached), max(end, reached)))
            reached = max(end, reached)
        return encoding.ids, spans

    def strips(self, name: str) -> tuple[bool, bool]:
        """Whether a special token takes the white space before and behind it, as its file says."""
        token = self._tokens.get(name)
        return (False, False) if token is None else (token.lstrip, token.rstrip)

    @cached_property
    def special_tokens_around(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The special tokens that the file itself puts before and behind a text, which `encode` leaves out."""
        encoding = self._pipeline.encode("a", add_special_tokens=True)
        text = [index for index, special in enumerate(encoding.special_tokens_mask) if not special]
        before, behind = (text[0], text[-1] + 1) if text else (0, 0)
        return tuple(encoding.tokens[:before]), tuple(encoding.tokens[behind:])

    def _plain(self, text: str, first: bool = True) -> Encoding:
        """`text` as a person typed it."""
        encoding = _encoding(self._pipeline if first else self._continuing, text)
        # A Unigram or word-level vocabulary can hold "</s>" or "[CLS]" as an ordinary word.
        if not self._reachable.isdisjoint(encoding.ids) and self._unspoken is not None:
            encoding = _encoding(self._unspoken if first else _continued(self._unspoken), text)
        if not self._reachable.isdisjoint(encoding.ids):
            bad = next(i for i in encoding.ids if i in self._reachable)
            raise PromptError(
                f"text: contains the control token {self._pipeline.id_to_token(bad)!r}; remove or space it"
            )
        return encoding

    @cached_property
    def _unspoken(self) -> Pipeline | None:
        """The pipeline with other names for the special tokens, which no text can hold; None where it cannot be."""
        table = json.loads(self._pipeline.to_str())
        vocabulary, added = table["model"].get("vocab"), table["added_tokens"]
        hidden = {index: f"\U0010fffe{index}\U0010fffe" for index in self._reachable}
        if isinstance(vocabulary, dict):
            table["model"]["vocab"] = {hidden.get(index, name): index for name, index in vocabulary.items()}
        else:
            table["model"]["vocab"] = [[hidden.get(i, name), score] for i, (name, score) in enumerate(vocabulary)]
        # Special ones are not looked for anyway; without them, nothing gives their names back to the vocabulary.
        table["added_tokens"] = [each for each in added if not each["special"]]
        table["post_processor"] = None
        try:
            pipeline = _read_again(json.dumps(table))
        except WeightsError:  # a merge makes the token
            return None
        kept = all(pipeline.token_to_id(each["content"]) == each["id"] for each in table["added_tokens"])
        return pipeline if kept else None

    @cached_property
    def _continuing(self) -> Pipeline:
        """The pipeline for text behind a special token: without the space that only a whole text gets in front."""
        return _continued(self._pipeline)

    @cached_property
    def _reachable(self) -> frozenset[int]:
        """Special ids that plain text must not give: all but the unknown token, which is harmless."""
        model = self._pipeline.model
        if isinstance(model, models.Unigram):  # says its unknown token only by using it
            return self.special_ids - {token.id for token in model.tokenize("\U0010ffff")}
        unknown = getattr(model, "unk_token", None)
        index = None if unknown is None else self._pipeline.token_to_id(unknown)
        return self.special_ids - {index}

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        """Text of `ids`; bytes that form no character become U+FFFD."""
        with no_panic("its files break the tokenizers library on the way back to text"):
            return self._pipeline.decode(list(ids), skip_special_tokens=skip_special)

    def token(self, index: int) -> str:
        """How the vocabulary writes one id (byte-level letters, not text); raises UnknownName outside it."""
        token = self._pipeline.id_to_token(index)
        if token is None:
            raise UnknownName(f"tokenizer: id {index} is outside the vocabulary of {self.vocab_size}")
        return token

    def stream(self, skip_special: bool = True) -> "TokenStream":
        """A fresh incremental decoder."""
        return TokenStream(self, skip_special=skip_special)


class TokenStream:
    """Incremental decoding: the pieces joined equal `decode` of all ids, and no piece holds half a character.

    Only a short window is decoded at each step: ids since the last but one emission, because some decoders
    treat the first token of a text differently (SentencePiece drops its leading space).
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special
        self._window: list[int] = []
        self._done = 0  # ids of the window whose text is already out

    def push(self, index: int) -> str:
        """Text that is certain after one more id; "" while a character is incomplete."""
        if self._skip and index in self._tokenizer.special_ids:
            return ""
        self._window.append(index)
        return self._emit(final=False)

    def finish(self) -> str:
        """What is left at the end of the stream, with U+FFFD for a character that never completed."""
        return self._emit(final=True)

    def _emit(self, final: bool) -> str:
        before = self._tokenizer.decode(self._window[: self._done], self._skip)
        text = self._tokenizer.decode(self._window, self._skip)
        if not final and (text.endswith("\N{REPLACEMENT CHARACTER}") or self._within_bytes()):
            return ""
        if len(text) <= len(before):  # an id without text, such as a lone SentencePiece space
            return ""
        self._window = self._window[self._done :] if self._done else self._window
        self._done = len(self._window)
        return text[len(before) :]

    def _within_bytes(self) -> bool:
        """Whether the last id is one of several bytes in a row, which are decoded together: all of them, or none."""
        return bool(self._window) and self._window[-1] in self._tokenizer.fallback_ids


def _encoding(pipeline: Pipeline, text: str) -> Encoding:
    if not isinstance(text, str):
        raise PromptError(f"text: expected str, found {type(text).__name__}")
    with no_panic("its files break the tokenizers library on this text"):
        try:
            return pipeline.encode(text, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):  # the library's answer to text that has no UTF-8 form
            raise PromptError("text: holds half of a surrogate pair, which is not valid Unicode; remove it") from None
        except Exception as error:  # above all, a vocabulary without a token for what it does not know
            raise WeightsError(f"tokenizer: its files have no tokens for this text ({str(error)[:120]})") from None


def _continued(pipeline: Pipeline) -> Pipeline:
    """A pipeline for text behind a special token."""
    split = pipeline.pre_tokenizer
    if split is None or b'"prepend_scheme":"first"' not in split.__getstate__():
        return pipeline
    table = json.loads(pipeline.to_str())
    spelling = json.dumps(table["pre_tokenizer"]).replace('"prepend_scheme": "first"', '"prepend_scheme": "never"')
    table["pre_tokenizer"] = json.loads(spelling)
    again = _read_again(json.dumps(table))
    again.encode_special_tokens = True
    return again


def _read_again(text: str) -> Pipeline:
    """A second pipeline of what the first one wrote, which the library does not read where merges hold spaces."""
    return made_by_library("its files cannot be written as they were read", lambda: Pipeline.from_str(text))


def pipeline_of_json(text: str, *, where: str) -> Pipeline:
    """The library's object from the text of a `tokenizer.json`; raises WeightsError, naming `where`, for another's."""
    checked = checked_json(text, where)
    return made_by_library(f"{where} is not a tokenizer.json", lambda: Pipeline.from_str(checked))


def iterate_text(tokenizer: Tokenizer, ids: Iterable[int], skip_special: bool = True) -> Iterator[str]:
    """Pieces of text for a running stream of ids; joined they equal `tokenizer.decode(list(ids))`."""
    stream = tokenizer.stream(skip_special)
    for index in ids:
        if piece := stream.push(index):
            yield piece
    if piece := stream.finish():
        yield piece


def pad_id_of(tokenizer: Tokenizer) -> int:
    """The id that fills batches: pad, else eos; raises ConfigError when the tokenizer names neither."""
    for index in (tokenizer.pad_id, tokenizer.eos_id):
        if index is not None:
            return index
    raise ConfigError("tokenizer: neither a pad nor an eos token is named, so batches cannot be padded; name one")


def _gguf_list(metadata: Mapping[str, Any], key: str, kind: type, limit: int = MAX_TOKENS) -> list[Any]:
    """A list of texts or numbers that is there and not too long."""
    value = metadata.get(key)
    if not isinstance(value, (list, tuple)) or not value:
        raise WeightsError(f"tokenizer: GGUF metadata lacks the list {key!r}")
    if len(value) > limit or not all(isinstance(each, kind) for each in value):
        raise WeightsError(f"tokenizer: GGUF metadata {key!r} is not a list of {kind.__name__}, {limit:,} at most")
    return list(value)
