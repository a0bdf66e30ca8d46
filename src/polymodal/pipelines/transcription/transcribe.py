"""From a recording of any length to a transcript, by windows of 30 s (arXiv:2212.04356 §4.5).

    samples, block by block -> log-mel of the window at `seek` -> encoder once -> decoder with fallback -> segments
        -> `seek` moves to the last finished segment -> next window, conditioned on the text before -> Transcript

An answer that repeats itself (it compresses too well) or is too unsure is tried again at the next temperature; a
window without speech is skipped.  All random numbers come from one seeded generator.
Traps: the loudest value of the whole recording sets the floor of every window; the last window is filled with zeros
of the spectrogram, not with silence; text of a window that needed a high temperature is not passed on.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from polymodal.backbones.whisper_decoder import AudioContext
from polymodal.data.media import Audio
from polymodal.data.mel_windows import MelWindows
from polymodal.data.whisper_languages import language_code
from polymodal.data.whisper_tokenizer import SECONDS_PER_TIMESTAMP, WhisperTokenizer
from polymodal.encoders.whisper import FRAMES_PER_SECOND
from polymodal.errors import MediaError
from polymodal.models.speech_seq2seq import SpeechSeq2Seq
from polymodal.pipelines.transcription.search import DecoderPrompt, SearchOptions, WindowResult, language_probs, search
from polymodal.pipelines.transcription.token_rules import TokenFilter, TokenRules

Recording = Audio | np.ndarray | Tensor
_FRAMES_PER_TIMESTAMP = round(SECONDS_PER_TIMESTAMP * FRAMES_PER_SECOND)
SILENCE = 1e-4  # amplitude: 80 dB below full scale, about three steps of 16 bits
_TRUSTED_TEMPERATURE = 0.5  # text sampled above it is not passed on to the next window


@dataclass(frozen=True, kw_only=True)
class TranscribeOptions:
    """How to transcribe.

    `language`: code or English name, None = detect in the first window.  `task`: 'transcribe', or 'translate' to
    English.  `temperatures` are tried in order until the text compresses no more than `repetition_limit` times and its
    average log-probability reaches `logprob_limit`.  A window is skipped as silent when its no-speech probability
    exceeds `no_speech_limit` and the text is that unsure, and without being decoded when no sample of it exceeds
    `silence_limit`: of digital silence Whisper is sure, and writes "you".  None switches a limit off.  `prompt`: text
    that the first window is taken to follow.
    """

    language: str | None = None
    task: str = "transcribe"
    timestamps: bool = True
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    repetition_limit: float | None = 2.4
    logprob_limit: float | None = -1.0
    no_speech_limit: float | None = 0.6
    silence_limit: float | None = SILENCE
    condition_on_previous: bool = True
    prompt: str | None = None
    rules: TokenRules = field(default_factory=TokenRules)
    search: SearchOptions = field(default_factory=SearchOptions)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stretch of speech; `start` and `end` in seconds of the recording, `tokens` with their timestamps.

    How sure the model was, and the rest, are None where it does not say.
    """

    start: float
    end: float
    text: str
    tokens: tuple[int, ...] = ()
    avg_logprob: float | None = None
    no_speech_prob: float | None = None
    compression_ratio: float | None = None
    temperature: float | None = None


@dataclass(frozen=True, kw_only=True)
class Window:
    """What was heard in one window; the texts of all windows, one after another, are that of the recording.

    `segments`: none in silence.  `until`: seconds of the recording that are done with this window, of `seconds` in all.
    """

    text: str
    segments: tuple[Segment, ...]
    until: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Transcript:
    """`language`: its code. `seconds`: length of the recording."""

    text: str
    segments: tuple[Segment, ...]
    language: str
    seconds: float


def compression_ratio(text: str) -> float:
    """Bytes of the text over bytes of its zlib form; repetition makes it large."""
    data = text.encode("utf-8")
    return len(data) / len(zlib.compress(data))


def spectrogram(model: SpeechSeq2Seq, audio: Recording) -> MelWindows:
    """Log-mel of a whole recording at the model's rate, read a window at a time."""
    mel = model.config.mel
    if not isinstance(audio, Audio):
        wave = torch.as_tensor(audio, dtype=torch.float32).cpu()
        if wave.dim() != 1:
            raise MediaError(f"transcription expects mono samples [n], found shape {list(wave.shape)}")
        audio = Audio((wave.numpy(), mel.rate))
    recording = audio
    # Behind its end the recording goes on as silence, so that its last frames fade as they would before more of it.
    return MelWindows(lambda: recording.blocks(mel.rate), replace(mel, seconds=None))


def transcribe(
    model: SpeechSeq2Seq,
    tokenizer: WhisperTokenizer,
    audio: Recording,
    options: TranscribeOptions | None = None,
) -> Transcript:
    """Transcript of `audio`, a record or mono float32 `[n]` at 16 kHz; memory does not grow with its length."""
    work = Transcription(model, tokenizer, audio, options or TranscribeOptions())
    return work.transcript(work.windows())


class Transcription:
    """The transcription of one recording; `windows()` gives its words as they are found, 30 s at most at a time."""

    def __init__(
        self, model: SpeechSeq2Seq, tokenizer: WhisperTokenizer, audio: Recording, options: TranscribeOptions
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.options = options
        self.mel = spectrogram(model, audio)
        self.seconds = self.mel.samples / model.config.mel.rate
        self._weight = model.backbone.embed_tokens.weight
        self._generator = torch.Generator(self._weight.device).manual_seed(options.seed)
        self._first: AudioContext | None = None
        self.language = self._language()
        self._sequence = tokenizer.start(language=self.language, task=options.task, timestamps=options.timestamps)
        self._rules: TokenFilter = options.rules.build(
            tokenizer, timestamps=options.timestamps, device=self._weight.device
        )

    def _language(self) -> str:
        if self.options.language is not None:
            return language_code(self.options.language, len(self.tokenizer.language_codes))
        if not self.tokenizer.multilingual:
            return "en"
        self._first = self._encode_window(0)
        probs = language_probs(self.model.backbone, self._first, self.tokenizer)[0]
        return max(probs, key=lambda code: probs[code])

    @torch.inference_mode()
    def _encode_window(self, seek: int) -> AudioContext:
        """Audio context of the window that starts at frame `seek`."""
        if seek == 0 and self._first is not None:
            return self._first
        frames = self.model.config.encoder.frames
        window = self.mel.window(seek, frames)
        window = F.pad(window, (0, frames - window.shape[1]))[None]
        return self.model.backbone.listen(self.model.audio(window.to(self._weight)))

    def windows(self) -> Iterator[Window]:
        """Windows in order; each is encoded once, whatever number of attempts its text needs."""
        options, seek = self.options, 0
        kept = self.model.backbone.config.positions // 2  # of the text before, as many ids as a prompt takes
        previous = self.tokenizer.encode(" " + options.prompt.strip()) if options.prompt else []
        while seek < self.mel.frames:
            frames = min(self.model.config.encoder.frames, self.mel.frames - seek)
            result = None if self._still(seek, frames) else self._decode_window(self._encode_window(seek), previous)
            segments: tuple[Segment, ...] = ()
            advance = frames
            if result is not None and not self._silent(result):
                segments, advance = self._segments(result, seek, frames)
                previous = [*previous, *(token for segment in segments for token in segment.tokens)][-kept:]
                if not options.condition_on_previous or result.temperature > _TRUSTED_TEMPERATURE:
                    previous = []
            seek += advance
            yield Window(
                text=self._text(segments),
                segments=segments,
                until=min(seek / FRAMES_PER_SECOND, self.seconds) if seek < self.mel.frames else self.seconds,
                seconds=self.seconds,
            )

    def transcript(self, windows: Iterable[Window]) -> Transcript:
        """All windows as one."""
        segments = tuple(segment for window in windows for segment in window.segments)
        text = self._text(segments).strip()
        return Transcript(text=text, segments=segments, language=self.language, seconds=self.seconds)

    def _text(self, segments: Sequence[Segment]) -> str:
        return self.tokenizer.decode(token for segment in segments for token in segment.tokens)

    def _segments(self, result: WindowResult, seek: int, frames: int) -> tuple[tuple[Segment, ...], int]:
        """The segments of a window that hold words, and the frames to move on."""
        pieces, advance = cut(result.tokens, frames, self.tokenizer.timestamp_begin)
        texts = [self.tokenizer.decode(ids).strip() for _, _, ids in pieces]
        return tuple(
            self._segment(result, seek / FRAMES_PER_SECOND, start, end, ids, text)
            for (start, end, ids), text in zip(pieces, texts, strict=True)
            if start != end and text
        ), advance

    def _segment(
        self, result: WindowResult, offset: float, start: float, end: float, ids: Sequence[int], text: str
    ) -> Segment:
        return Segment(
            start=offset + start,
            end=offset + end,
            text=text,
            tokens=tuple(ids),
            avg_logprob=result.avg_logprob,
            no_speech_prob=result.no_speech_prob,
            compression_ratio=self._repetition(result),
            temperature=result.temperature,
        )

    def _repetition(self, result: WindowResult) -> float:
        return compression_ratio(self.tokenizer.decode(result.tokens).strip())

    def _decode_window(self, context: AudioContext, previous: Sequence[int]) -> WindowResult:
        """The first answer that passes the limits, or the last one tried."""
        limit = self.model.backbone.config.positions // 2
        start = DecoderPrompt.of(self.tokenizer, self._sequence, previous, limit)
        for temperature in self.options.temperatures:
            result = search(
                self.model.backbone,
                context,
                start,
                self._rules,
                self.options.search,
                self.tokenizer.no_speech,
                temperature=temperature,
                generator=self._generator,
            )[0]
            if self._acceptable(result):
                break
        return result

    def _acceptable(self, result: WindowResult) -> bool:
        limits = self.options
        unsure = limits.logprob_limit is not None and result.avg_logprob < limits.logprob_limit
        if unsure and limits.no_speech_limit is not None and result.no_speech_prob > limits.no_speech_limit:
            return True  # silence; another attempt would only invent words
        repeats = limits.repetition_limit is not None and self._repetition(result) > limits.repetition_limit
        return not unsure and not repeats

    def _still(self, seek: int, frames: int) -> bool:
        """Whether nothing in a window is louder than the limit."""
        limit = self.options.silence_limit
        return limit is not None and self.mel.loudest(seek, frames) <= limit

    def _silent(self, result: WindowResult) -> bool:
        limits = self.options
        if limits.no_speech_limit is None or result.no_speech_prob <= limits.no_speech_limit:
            return False
        return limits.logprob_limit is None or result.avg_logprob <= limits.logprob_limit


def cut(tokens: Sequence[int], frames: int, begin: int) -> tuple[list[tuple[float, float, tuple[int, ...]]], int]:
    """Split a window's ids at its timestamps.

    `frames`: mel frames of sound in the window; `begin`: id of <|0.00|>.  Returns [(start, end, ids)] in seconds of
    the window, and the frames to move on: to the last finished segment, or all when nothing is left open.
    """
    stamps = [token >= begin for token in tokens]
    cuts = [i for i in range(1, len(tokens)) if stamps[i - 1] and stamps[i]]
    if not cuts:
        end = frames / FRAMES_PER_SECOND
        last = next((token - begin for token in reversed(tokens) if token >= begin), 0)
        if last:
            end = last * SECONDS_PER_TIMESTAMP
        return [(0.0, end, tuple(tokens))], frames
    closed = stamps[-2:] == [False, True]  # a single stamp at the end: no speech after it
    if closed:
        cuts.append(len(tokens))
    pieces, first = [], 0
    for end_index in cuts:
        ids = tuple(tokens[first:end_index])
        pieces.append(((ids[0] - begin) * SECONDS_PER_TIMESTAMP, (ids[-1] - begin) * SECONDS_PER_TIMESTAMP, ids))
        first = end_index
    advance = (tokens[first - 1] - begin) * _FRAMES_PER_TIMESTAMP
    return pieces, frames if closed or not advance else advance  # a pair at 0.00 must not stop the clock
