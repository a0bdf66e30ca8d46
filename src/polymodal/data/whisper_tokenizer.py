"""Whisper's tokenizer: byte-level BPE from a rank file, then the special tokens by arithmetic (arXiv:2212.04356 §2.3).

    rank file (base64 bytes + rank per line) -> bytes -> id
    ids: text | eot | sot | languages | translate, transcribe, sot_lm, sot_prev, no_speech, no_timestamps | timestamps

Traps: the English-only models use the GPT-2 vocabulary (50,256 entries) and neither language nor task in the start
sequence, yet their table reserves the language ids; one character may span tokens, so ids are joined as bytes before
decoding; special tokens written by a user in the text are plain text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from heapq import heappop, heappush
from pathlib import Path

from polymodal.data.tiktoken_file import read_ranks
from polymodal.data.vocabulary_files import read_bytes
from polymodal.data.whisper_languages import LANGUAGES, language_code
from polymodal.errors import ConfigError, UnknownName

# GPT-2's split into words; the last but one branch leaves one space for the following word.
WORD_PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
TIMESTAMPS = 1501  # <|0.00|> to <|30.00|> in steps of 0.02 s
SECONDS_PER_TIMESTAMP = 0.02
TASKS = ("transcribe", "translate")

_SINGLE = '"#()*+/:;<=>@[\\]^_`{|}~「」『』'
_GROUPS = "<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪"
_MUSIC = "♩♪♫♬♭♮♯"


class WhisperTokenizer:
    """Text <-> ids of one Whisper vocabulary.

    `ranks`: token bytes -> id (`read_ranks`).  `languages`: 99, or 100 for large-v3 and turbo.
    `multilingual=False` for the `.en` models: the start sequence then holds neither language nor task.
    """

    def __init__(self, ranks: dict[bytes, int], *, multilingual: bool, languages: int = 99) -> None:
        if not 1 <= languages <= len(LANGUAGES):
            raise ConfigError(f"languages={languages}: expected 1 to {len(LANGUAGES)}")
        self.ranks = ranks
        self.multilingual = multilingual
        self.language_codes: tuple[str, ...] = tuple(LANGUAGES)[:languages]
        names = ["endoftext", "startoftranscript", *self.language_codes, *reversed(TASKS)]
        names += ["startoflm", "startofprev", "nospeech", "notimestamps"]
        names += [f"{index * SECONDS_PER_TIMESTAMP:.2f}" for index in range(TIMESTAMPS)]
        self.special_ids: dict[str, int] = {f"<|{name}|>": len(ranks) + offset for offset, name in enumerate(names)}
        self.vocab_size = len(ranks) + len(names)
        self.eot = self.id_of("<|endoftext|>")
        self.sot = self.id_of("<|startoftranscript|>")
        self.sot_prev = self.id_of("<|startofprev|>")
        self.no_speech = self.id_of("<|nospeech|>")
        self.no_timestamps = self.id_of("<|notimestamps|>")
        self.timestamp_begin = self.id_of("<|0.00|>")
        self._bytes = {rank: token for token, rank in ranks.items()}
        self._words: dict[bytes, list[int]] = {}

    @classmethod
    def read(cls, path: str | Path, *, multilingual: bool, languages: int = 99) -> WhisperTokenizer:
        """Tokenizer from a `.tiktoken` rank file on disk."""
        return cls(read_ranks(read_bytes(Path(path)), where=str(path)), multilingual=multilingual, languages=languages)

    def id_of(self, name: str) -> int:
        """Id of a special token by its name, `<|...|>` included; `UnknownName` otherwise."""
        try:
            return self.special_ids[name]
        except KeyError:
            raise UnknownName(f"{name!r} is not a special token of this Whisper vocabulary") from None

    @cached_property
    def language_ids(self) -> dict[str, int]:
        """Language code -> token id, in id order."""
        return {code: self.id_of(f"<|{code}|>") for code in self.language_codes}

    @cached_property
    def _splitter(self):  # type: ignore[no-untyped-def]
        from tokenizers import Regex
        from tokenizers.pre_tokenizers import Split

        return Split(Regex(WORD_PATTERN), "isolated")

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; `<|...|>` typed by a user is split like any other text."""
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # a lone surrogate has no UTF-8 form
        return [id_ for word, _ in self._splitter.pre_tokenize_str(text) for id_ in self._word(word.encode("utf-8"))]

    def _word(self, word: bytes) -> list[int]:
        """BPE of one word: join the neighbouring pair of lowest rank until none is in the table."""
        if word in self.ranks:
            return [self.ranks[word]]
        if word in self._words:
            return self._words[word]
        ids = [self.ranks[part] for part in self._merged(word)]
        if len(self._words) < 65536:  # a server must not grow without bound on random words
            self._words[word] = ids
        return ids

    def _merged(self, word: bytes) -> list[bytes]:
        """The parts of a word; a queue of pairs, so that a word of a megabyte takes no square of it."""
        size = len(word)
        ends, before = list(range(1, size + 1)), list(range(-1, size))  # of the part that begins at an index
        waiting: list[tuple[int, int]] = []

        def offer(left: int) -> None:
            right = ends[left]
            if right < size and (rank := self.ranks.get(word[left : ends[right]])) is not None:
                heappush(waiting, (rank, left))

        for index in range(size):
            offer(index)
        while waiting:
            rank, left = heappop(waiting)
            right = ends[left]
            # The pair may have changed since: its part was taken by the one before it, or has grown.
            if right <= left or right >= size or self.ranks.get(word[left : ends[right]]) != rank:
                continue
            ends[left], ends[right] = ends[right], -1
            if ends[left] < size:
                before[ends[left]] = left
            offer(left)
            if before[left] >= 0:
                offer(before[left])
        begins = [index for index in range(size) if ends[index] > 0]
        return [word[index : ends[index]] for index in begins]

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the text ids; special tokens and timestamps are left out, broken UTF-8 becomes U+FFFD."""
        return b"".join(self._bytes[id_] for id_ in ids if id_ < self.eot).decode("utf-8", "replace")

    def decode_marked(self, ids: Sequence[int]) -> str:
        """Text with every special token and timestamp written out as `<|...|>`; to inspect what a model wrote."""
        names = {id_: name.encode() for name, id_ in self.special_ids.items()}
        return b"".join(self._bytes[id_] if id_ < self.eot else names[id_] for id_ in ids).decode("utf-8", "replace")

    def start(self, *, language: str | None, task: str = "transcribe", timestamps: bool = True) -> tuple[int, ...]:
        """Start sequence: sot, then language and task if multilingual, `no_timestamps` when none are wanted."""
        if task not in TASKS:
            raise ConfigError(f"task={task!r}: expected one of {', '.join(TASKS)}")
        ids = [self.sot]
        if self.multilingual:
            code = language_code(language or "en", len(self.language_codes))
            ids += [self.language_ids[code], self.id_of(f"<|{task}|>")]
        elif task != "transcribe":
            raise ConfigError(
                "task='translate' needs a multilingual Whisper model; this one hears and writes English only"
            )
        elif language is not None and language_code(language) != "en":
            raise ConfigError(f"language={language!r} needs a multilingual Whisper model; this one knows English only")
        return tuple(ids if timestamps else [*ids, self.no_timestamps])

    @cached_property
    def blank_ids(self) -> tuple[int, ...]:
        """Ids that may not come first: a lone space and the end of text."""
        return (*self.encode(" "), self.eot)

    @cached_property
    def control_ids(self) -> tuple[int, ...]:
        """Special ids that are never an answer: tasks, start tokens, the no-speech token."""
        names = (*TASKS, "startoftranscript", "startofprev", "startoflm", "nospeech")
        return tuple(sorted(self.id_of(f"<|{name}|>") for name in names))

    @cached_property
    def non_speech_ids(self) -> tuple[int, ...]:
        """Ids of symbols nobody speaks: brackets, speaker tags, music notes, and a dash or quote that opens a word."""
        result = {self.encode(" -")[0], self.encode(" '")[0]}
        for symbol in [*_SINGLE, *_GROUPS.split(), *_MUSIC]:
            for ids in (self.encode(symbol), self.encode(" " + symbol)):
                # Music notes share their first bytes with symbols of the same block, so the first token is enough.
                if len(ids) == 1 or symbol in _MUSIC:
                    result.add(ids[0])
        return tuple(sorted(result))
