"""Rank files of tiktoken (`qwen.tiktoken`, `emu3.tiktoken`, `arcade100k.tiktoken`, LLaMA 3's `tokenizer.model`).

    lines "base64(token) rank" -> bytes -> rank -> byte-level BPE; then special tokens, from the first free id on
    (of Arcade100k, StableLM 2's, from the second)

Qwen (arXiv 2309.16609), Qwen-VL (arXiv 2308.12966), Qwen-Audio (arXiv 2311.07919), Emu3 (arXiv 2409.18869): the
special tokens stand in code that their folders bring along, which is never run; here they are data, in that order.
Traps: Qwen-VL and Qwen-Audio have the same tokenizer_class and file, only config.json (`visual`, `audio`) tells them
apart; what people type and models answer (marks of boxes, tags of tasks) is no special token; text is brought to NFC
first; the file has words for neither the expression nor the special tokens.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, normalizers
from tokenizers import Tokenizer as Pipeline

from polymodal.data.byte_level import LLAMA3_WORDS, QWEN2_WORDS, byte_letters, merges_of_ranks, split_then_bytes
from polymodal.data.sentencepiece import check_cuts
from polymodal.data.sentencepiece_pipelines import Vocabulary
from polymodal.data.token_settings import TokenSettings
from polymodal.data.tokenizer_parts import MAX_TOKENS, check_added
from polymodal.data.vocabulary_files import read_bytes, read_text
from polymodal.errors import WeightsError

END = "<|endoftext|>"
QWEN = (END, "<|im_start|>", "<|im_end|>", *(f"<|extra_{index}|>" for index in range(205)))
QWEN_VL = ("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>", "<img>", "</img>", "<imgpad>")
QWEN_AUDIO = (
    "[[[AUDIO:modality]]]",
    *(f"<|{name}|>" for name in ("startoftranscript", "startofanalysis", "translate", "transcribe", "caption",
                                 "keyword", "unknown", "en", "zh", "de", "es", "ko", "fr", "ja", "it", "zh_tr",
                                 "notimestamps", "sil", "timestamps")),
    *(f"<|{index * 0.01:.2f}|>" for index in range(3001)),
    *(f"<|{name}|>" for name in ("caption_audiocaps", "caption_clotho", "audioset_ontology", "caption_plain", "itn",
                                 "wo_itn", "startofentityvalue", "endofentityvalue", "startofentitytype",
                                 "endofentitytype", "named_entity_recognition", "audio_grounding", "startofword",
                                 "endofword", "delim", "emotion_recognition", "music_description", "note_analysis",
                                 "pitch")),
    *(f"<|midi_pitch_{index}|>" for index in range(128)),
    "<|velocity|>",
    *(f"<|midi_velocity_{index}|>" for index in range(128)),
    *(f"<|{name}|>" for name in ("sonic", "instrument", "speaker_meta", "song_meta", "question", "answer", "choice",
                                 "scene", "event", "vocal_classification", "speech_understanding", "scenario",
                                 "action", "entities", "speech_edit")),
    "<audio>",
    "</audio>",
)  # fmt: skip
ARCADE = (
    END,
    *(f"<|fim_{name}|>" for name in ("prefix", "middle", "suffix", "pad")),
    "<gh_stars>", "<filename>", "<issue_start>", "<issue_comment>", "<issue_closed>",
    *(f"<jupyter_{name}>" for name in ("start", "text", "code", "output")),
    "<empty_output>", "<commit_before>", "<commit_msg>", "<commit_after>", "<reponame>",
    "<|endofprompt|>", "<|im_start|>", "<|im_end|>", "<|pause|>", *(f"<|reg{index}|>" for index in range(8)),
    "<|extra0|>",
)  # fmt: skip
MAX_GAP = 1 << 16  # ids behind a rank file that may be free
EMU3_TOKENS = "emu3_vision_tokens.txt"


def is_rank_file(data: bytes) -> bool:
    """Whether a file begins like a rank file; a `tokenizer.model` is one in the LLaMA 3 releases."""
    return re.match(rb"[A-Za-z0-9+/]+=* [0-9]+\r?\n", data[:256]) is not None


def read_ranks(data: bytes, *, where: str = "rank file") -> dict[bytes, int]:
    """Token -> rank.  Raises WeightsError, naming the first bad line, unless the ranks are 0 .. n-1 once each."""
    if data.count(b"\n") > MAX_TOKENS:
        raise WeightsError(f"{where} has more than {MAX_TOKENS:,} lines, which no vocabulary has")
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line:
            continue
        try:
            token, rank = line.split()
            # Whisper's multilingual file ends in a placeholder: "=" stands for a token without bytes.
            ranks[b"" if token == b"=" else base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise WeightsError(f"{where} line {number}: expected 'base64 rank', found {line[:40]!r}") from None
    missing = [value for value in range(256) if bytes([value]) not in ranks]
    if missing:
        raise WeightsError(f"{where} has {len(ranks)} tokens but lacks the single byte {missing[0]:#04x}; no byte BPE")
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise WeightsError(f"{where} has {len(ranks)} tokens whose ranks are not 0..{len(ranks) - 1} once each")
    return ranks


def qwen(path: Path, settings: TokenSettings, config: Mapping[str, Any]) -> Vocabulary:
    """QWenTokenizer; `visual` or `audio` in config.json say which tokens come behind the common ones.

    Raises WeightsError when the ids that config.json gives are others.
    """
    pipeline = _pipeline(_ranks(path), QWEN2_WORDS)
    pipeline.normalizer = normalizers.NFC()
    vision, audio = config.get("visual"), config.get("audio")
    names = (*QWEN, *(QWEN_VL if vision else QWEN_AUDIO if audio else ()))
    pipeline.add_tokens(_added(names, typed=(*QWEN_VL[:-3], *QWEN_AUDIO[1:-2])))
    for table, key, name in ((vision, "image_start_id", "<img>"), (audio, "audio_start_id", "<audio>")):
        stated = table.get(key) if isinstance(table, dict) else None
        if stated is not None and stated != pipeline.token_to_id(name):
            raise WeightsError(
                f"tokenizer: {path} puts {name!r} at {pipeline.token_to_id(name)}, config.json says {key} {stated!r}; "
                f"they are of different models"
            )
    return Vocabulary(pipeline=pipeline, roles={"eos": END, "pad": END})


def emu3(path: Path, settings: TokenSettings, config: Mapping[str, Any]) -> Vocabulary:
    """Emu3Tokenizer: Qwen's tokens, then those of emu3_vision_tokens.txt beside the file, one a line."""
    pipeline = _pipeline(_ranks(path), QWEN2_WORDS)
    pipeline.normalizer = normalizers.NFC()
    lines = read_text(path.with_name(EMU3_TOKENS)).split("\n")
    pipeline.add_special_tokens(_added((*QWEN, *(line.strip() for line in lines if line.strip()))))
    return Vocabulary(pipeline=pipeline, roles={"bos": "<|extra_203|>", "eos": "<|extra_204|>", "pad": END})


def arcade100k(path: Path, settings: TokenSettings, config: Mapping[str, Any]) -> Vocabulary:
    """Arcade100kTokenizer of StableLM 2: Qwen's words; one id behind the ranks stays free."""
    ranks = _ranks(path)
    pipeline = _pipeline(ranks, QWEN2_WORDS)
    pipeline.normalizer = normalizers.NFC()
    pipeline.add_special_tokens(_added((f"<|reserved_token_{len(ranks)}|>", *ARCADE)))
    return Vocabulary(pipeline=pipeline, roles={"eos": END, "pad": END})


def llama3(path: Path, settings: TokenSettings, config: Mapping[str, Any]) -> Vocabulary:
    """A rank file without code of its own: LLaMA 3's words; gaps among the ids of added tokens are filled."""
    ranks = _ranks(path)
    pipeline = _pipeline(ranks, LLAMA3_WORDS)
    last = max((index for index in settings.added_by_id if index < len(ranks) + MAX_GAP), default=-1)
    names = {index: token.content for index, token in settings.added_by_id.items()}
    fill = [names.get(index, f"<|reserved_token_{index}|>") for index in range(len(ranks), last + 1)]
    pipeline.add_special_tokens(_added(fill))
    return Vocabulary(pipeline=pipeline)


def _ranks(path: Path) -> dict[bytes, int]:
    """The ranks of a file, none of which may be so long that merges would take hours."""
    ranks = read_ranks(read_bytes(path), where=f"tokenizer: {path}")
    try:
        check_cuts(list(ranks))
    except ValueError as problem:
        raise WeightsError(f"tokenizer: {path} is not a rank file ({problem})") from None
    return ranks


def _pipeline(ranks: Mapping[bytes, int], words: str) -> Pipeline:
    """Byte-level BPE by rank; a word that is a token is not merged from its bytes."""
    vocabulary = {byte_letters(token): rank for token, rank in ranks.items()}
    pipeline = Pipeline(models.BPE(vocab=vocabulary, merges=merges_of_ranks(ranks), ignore_merges=True))
    pipeline.pre_tokenizer = split_then_bytes(words)
    pipeline.decoder = decoders.ByteLevel()
    return pipeline


def _added(names: tuple[str, ...] | list[str], typed: tuple[str, ...] = ()) -> list[AddedToken]:
    """Special tokens; those of `typed` are words that people write and models answer with."""
    check_added(names)
    words = frozenset(typed)
    return [AddedToken(name, normalized=False, special=name not in words) for name in names]
