"""Finding the words of one or several windows of sound: greedy, sampled, or by beam search.

    audio context of N windows + start sequence -> one `WindowResult` per window

Beams and samples of a window are rows that share its audio context.  Scores are sums of log-probabilities after the
rules (`transcription_rules`); candidates are ranked by score per token, or by score / ((5 + n) / 6) ** length_penalty
(arXiv:1609.08144 §7).  A beam ends when `beams * patience` candidates are finished (arXiv:2204.05424).
Traps: at the first step all beams are equal, so only one of them is expanded; the average log-probability counts the
end token, the rank does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from polymodal.backbones.whisper_decoder import AudioContext, WhisperDecoder
from polymodal.data.whisper_tokenizer import WhisperTokenizer
from polymodal.errors import ConfigError, NotFinite
from polymodal.nn.cache import KVCache
from polymodal.pipelines.transcription.token_rules import TokenFilter


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """`beams` count at temperature 0, `samples` (best of) above it.  `longest`: tokens per window, None = half the
    decoder's positions."""

    beams: int = 1
    patience: float = 1.0
    length_penalty: float | None = None
    samples: int = 1
    longest: int | None = None

    def __post_init__(self) -> None:
        if self.beams < 1 or self.samples < 1 or round(self.beams * self.patience) < 1:
            raise ConfigError(f"beams, samples and beams * patience must be at least 1, found {self}")
        if self.length_penalty is not None and not 0 <= self.length_penalty <= 1:
            raise ConfigError(f"length_penalty={self.length_penalty}: expected a number from 0 to 1")


@dataclass(frozen=True, kw_only=True)
class WindowResult:
    """What the decoder made of one window: ids without start sequence and end token, and how sure it was."""

    tokens: tuple[int, ...]
    avg_logprob: float
    no_speech_prob: float
    temperature: float = 0.0


@dataclass(frozen=True, kw_only=True)
class DecoderPrompt:
    """Ids given to the decoder before it writes, and where the start token stands among them."""

    ids: tuple[int, ...]
    sot: int

    @classmethod
    def of(
        cls, tokenizer: WhisperTokenizer, sequence: Sequence[int], previous: Sequence[int], limit: int
    ) -> DecoderPrompt:
        """`previous`: ids of the text before, cut from the left to `limit` ids with its marker."""
        before = [tokenizer.sot_prev, *previous[-(limit - 1) :]] if previous else []
        return cls(ids=(*before, *sequence), sot=len(before))


class _Rows:
    """Decoder state of R rows: logits of the next token, and the step that follows a choice."""

    def __init__(
        self, decoder: WhisperDecoder, context: AudioContext, start: DecoderPrompt, rows: int, longest: int
    ) -> None:
        self.decoder = decoder
        self.context = context
        self.limit = decoder.config.positions
        self.length = len(start.ids)
        self.cache: KVCache = decoder.new_cache(rows, min(self.length + longest, self.limit))
        device = decoder.embed_tokens.weight.device
        ids = torch.tensor(start.ids, device=device).expand(rows, -1)
        hidden = decoder(decoder.embed(ids), context=context, cache=self.cache)
        self.at_start = decoder.head(hidden[:, start.sot]).float()
        self.logits = decoder.head(hidden[:, -1]).float()

    def step(self, chosen: Tensor) -> None:
        """Feed `chosen [R]`; `logits [R, V]` float32 are then those of the following token."""
        hidden = self.decoder(self.decoder.embed(chosen[:, None]), context=self.context, cache=self.cache)
        self.logits = self.decoder.head(hidden[:, -1]).float()

    def full(self, written: int) -> bool:
        """True when another token would not fit after `written` new ones."""
        return self.length + written > self.limit


Candidate = tuple[tuple[int, ...], float]  # ids without the end token, sum of log-probabilities with it


@torch.inference_mode()
def search(
    decoder: WhisperDecoder,
    context: AudioContext,
    start: DecoderPrompt,
    rules: TokenFilter,
    options: SearchOptions,
    no_speech: int,
    *,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[WindowResult]:
    """The best answer for each of the context's recordings.

    `no_speech`: id whose probability at the start token tells that nobody speaks. `generator` seeds the sampling.
    """
    longest = options.longest or decoder.config.positions // 2
    group = options.beams if temperature == 0 else options.samples
    rows = _Rows(decoder, context, start, context.items * group, longest)
    silence = rows.at_start.softmax(-1)[::group, no_speech].tolist()
    if temperature == 0 and group > 1:
        candidates = _beam(rows, rules, options, longest)
    else:
        each = _sample(rows, rules, longest, temperature, generator)
        candidates = [each[first : first + group] for first in range(0, len(each), group)]
    result = []
    for own, prob in zip(candidates, silence, strict=True):
        tokens, score = _best(own, options.length_penalty)
        average = score / (len(tokens) + 1)
        if math.isnan(average) or math.isnan(prob):
            raise NotFinite("the model's scores are NaN or infinite")
        result.append(WindowResult(tokens=tokens, avg_logprob=average, no_speech_prob=prob, temperature=temperature))
    return result


def _sample(
    rows: _Rows, rules: TokenFilter, longest: int, temperature: float, generator: torch.Generator | None
) -> list[Candidate]:
    """One candidate per row: the likeliest token at temperature 0, else a drawn one."""
    scores = torch.zeros(rows.logits.shape[0], device=rows.logits.device)
    written: list[list[int]] = [[] for _ in scores]
    done = torch.zeros_like(scores, dtype=torch.bool)
    for _ in range(longest):
        logits = rules.apply(rows.logits, written)
        if temperature == 0:
            chosen = logits.argmax(-1)
        else:
            chosen = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
        chosen = chosen.masked_fill(done, rules.eot)
        gained = logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(-1)
        scores += gained.masked_fill(done, 0.0)
        done |= chosen == rules.eot
        # The one read of a step; a row that has ended keeps writing the end.
        for ids, token in zip(written, chosen.tolist(), strict=True):
            ids.append(token)
        if all(ids[-1] == rules.eot for ids in written) or rows.full(len(written[0])):
            break
        rows.step(chosen)
    return [(_until(ids, rules.eot), score) for ids, score in zip(written, scores.tolist(), strict=True)]


def _beam(rows: _Rows, rules: TokenFilter, options: SearchOptions, longest: int) -> list[list[Candidate]]:
    """Finished candidates of each recording, filled up with unfinished ones when fewer than `beams` ended."""
    beams, enough = options.beams, round(options.beams * options.patience)
    total = rows.logits.shape[0]
    scores = torch.zeros(total, device=rows.logits.device)
    written: list[list[int]] = [[] for _ in range(total)]
    finished: list[dict[tuple[int, ...], float]] = [{} for _ in range(total // beams)]
    for _ in range(longest):
        logprobs = rules.apply(rows.logits, written).log_softmax(-1)
        likeliest = logprobs.topk(beams + 1)
        # A double holds every id and every float32 exactly, so that one copy brings both.
        both = torch.cat((scores[:, None] + likeliest.values, likeliest.indices.double()), 1).tolist()
        values: list[list[float]] = [row[: beams + 1] for row in both]
        ids: list[list[int]] = [[int(index) for index in row[beams + 1 :]] for row in both]
        kept: list[tuple[float, int, int]] = []  # score, row it continues, new token
        for item, done in enumerate(finished):
            # Equal rows at the first step: the others would only repeat row one.
            own = range(item * beams, item * beams + (beams if written[0] else 1))
            ranked = sorted(
                ((value, row, id_) for row in own for value, id_ in zip(values[row], ids[row], strict=True)),
                key=lambda option: -option[0],
            )
            kept += _keep(ranked, written, done, rules.eot, beams, enough)
        packed = torch.tensor(kept, dtype=torch.float64, device=scores.device)
        scores, source, tokens = packed[:, 0].float(), packed[:, 1].long(), packed[:, 2].long()
        written = [[*written[row], token] for _, row, token in kept]
        if all(len(done) >= enough for done in finished) or rows.full(len(written[0])):
            break
        rows.cache.reorder(source)
        rows.step(tokens)
    ends = scores.tolist()
    for item, done in enumerate(finished):
        left = sorted(range(item * beams, (item + 1) * beams), key=lambda row: -ends[row])
        for row in left[: max(beams - len(done), 0)]:
            done[tuple(written[row])] = ends[row]
    return [list(done.items()) for done in finished]


def _keep(
    ranked: Sequence[tuple[float, int, int]],
    written: Sequence[Sequence[int]],
    done: dict[tuple[int, ...], float],
    eot: int,
    beams: int,
    enough: int,
) -> list[tuple[float, int, int]]:
    """The best `beams` continuations; those that end on the way are added to `done` while more are wanted."""
    kept: list[tuple[float, int, int]] = []
    for score, row, token in ranked:
        if token != eot:
            kept.append((score, row, token))
        elif len(done) < enough:
            done[tuple(written[row])] = score
        if len(kept) == beams:
            break
    return kept


def _best(candidates: Sequence[Candidate], length_penalty: float | None) -> Candidate:
    """The candidate of highest score after length normalisation."""

    def rank(candidate: Candidate) -> float:
        ids, score = candidate
        size = len(ids)
        return score / (max(size, 1) if length_penalty is None else ((5 + size) / 6) ** length_penalty)

    return max(candidates, key=rank)


def _until(ids: Sequence[int], end: int) -> tuple[int, ...]:
    return tuple(ids[: ids.index(end)]) if end in ids else tuple(ids)


@torch.inference_mode()
def language_probs(
    decoder: WhisperDecoder, context: AudioContext, tokenizer: WhisperTokenizer
) -> list[dict[str, float]]:
    """Probability of each language code, for each recording of the context; the model must be multilingual."""
    if not tokenizer.multilingual:
        raise ConfigError("this Whisper model knows English only; language detection needs a multilingual one")
    device = decoder.embed_tokens.weight.device
    sot = torch.full((context.items, 1), tokenizer.sot, device=device)
    logits = decoder.head(decoder(decoder.embed(sot), context=context))[:, 0].float()
    ids = torch.tensor(list(tokenizer.language_ids.values()), device=device)
    return [dict(zip(tokenizer.language_codes, row, strict=True)) for row in logits[:, ids].softmax(-1).tolist()]
