"""A picture (and a question) read by encoders, and a text decoder that cross-attends to what they made: BLIP, ALBEF.

    caption   pixel_values -> image -> source [N, S, D'];  prompt input_ids -> decoder -> head -> next token
    question  input_ids -> question encoder, source = image states -> source [B, T, D];  start id -> decoder -> answer

The decoder is a TextEncoder run causally with a cache; keys and values of the source are computed once.  An answer may
also be chosen from a list by likelihood (`rank`).
BLIP (arXiv 2201.12086), ALBEF's VQA (arXiv 2107.07651).
Traps, all as published: the prompt's first id is replaced by the start id and its last ([SEP]) is cut before writing;
in writing the padding of a question is read like its words, in `logits` it is masked; a padded prompt counts its
positions by the mask when writing, by place in `logits`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from polymodal.assemblies.beam import Beams, found, search
from polymodal.assemblies.generate import GREEDY, Ending, Generation, Writer, collected, per_row, unended
from polymodal.assemblies.running import copied
from polymodal.assemblies.sampling import Sampler, SamplingOptions
from polymodal.backbones.encoder import TextEncoderConfig, TokenHeadConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.nn.cache import KVCache
from polymodal.nn.mask import MaskSpec

_INPUTS = (
    "pixel_values",
    "input_ids",
    "attention_mask",
    "decoder_input_ids",
    "decoder_attention_mask",
    "interpolate_pos_encoding",
)


Source = tuple[Tensor, MaskSpec | None]  # what is read, and which of it


@dataclass(frozen=True, kw_only=True)
class WriterIds:
    """Token ids that start (`bos`) and end (`sep`) a text, and fill short rows (`pad`)."""

    bos: int
    sep: int
    pad: int = 0


@dataclass(frozen=True, kw_only=True)
class AnswerRules:
    """What differs between the published question models.

    masked: padding of a question is not read when writing.  first_twice: ranking counts the first word twice (ALBEF).
    smoothing: label smoothing of the losses that rank (BLIP's 0.1).
    """

    masked: bool = False
    first_twice: bool = False
    smoothing: float = 0.0


class FusionWriter(nn.Module):
    """`question` None: the decoder reads the picture and continues `input_ids`; else it answers them."""

    def __init__(
        self,
        image: nn.Module,
        decoder: TextEncoderConfig,
        head: TokenHeadConfig,
        *,
        ids: WriterIds,
        question: TextEncoderConfig | None = None,
        rules: AnswerRules = AnswerRules(),
    ) -> None:
        super().__init__()
        self.image = image
        self.question = None if question is None else question.build()
        self.decoder = decoder.build()
        self.head = head.build()
        self.tied = head.tied
        self.ids = ids
        self.rules = rules

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """What the decoder cross-attends to: `image [N, S, D']`, and `text [B, T, D]` of a question about it."""
        batch = _known(batch)
        found = {"image": self._look(batch)}
        if self.question is not None and "input_ids" in batch:
            found["text"] = self._ask(found["image"], batch)
        return found

    def logits(self, **batch: Any) -> Tensor:
        """`[B, T, V]` of the prompt (`input_ids`), or of `decoder_input_ids` after a question."""
        batch = _known(batch)
        if self.question is None:
            return self.score(batch_ids(batch, "input_ids"), batch.get("attention_mask"), self._look(batch))
        source = self._ask(self._look(batch), batch)
        ids = batch_ids(batch, "decoder_input_ids")
        return self.score(ids, batch.get("decoder_attention_mask"), source, batch.get("attention_mask"))

    def forward(self, **batch: Any) -> Tensor:
        """The same as `logits`."""
        return self.logits(**batch)

    def score(
        self, input_ids: Tensor, attention_mask: Tensor | None, source: Tensor, source_mask: Tensor | None = None
    ) -> Tensor:
        """Causal logits `[B, T, V]` of a text given its source `[B, S, D']`."""
        mask = MaskSpec(attention_mask=attention_mask)
        seen = None if source_mask is None else MaskSpec(causal=False, attention_mask=source_mask)
        return self._head(self.decoder.run(self.decoder.embed(input_ids), mask, source=source, source_mask=seen))

    @torch.inference_mode()
    def generate(self, tensors: Mapping[str, Any], options: SamplingOptions, ending: Ending, pad: int | None) -> Tensor:
        """ids [B, P + new]: what the decoder starts from and what it wrote, `pad` behind rows that end early."""
        batch = _known(tensors)
        answers = self.write(batch, options, ending)
        rows = [torch.tensor(answer.ids) for answer in answers]
        filler = self.ids.pad if pad is None else pad
        prompt, _ = self._prompt(batch, len(answers), batch_ids(batch, "pixel_values").device)
        return torch.cat((prompt, pad_sequence(rows, batch_first=True, padding_value=filler).to(prompt)), 1)

    @torch.inference_mode()
    def write(
        self,
        batch: Mapping[str, Any],
        options: SamplingOptions | Sequence[SamplingOptions] = GREEDY,
        ending: Ending | None = None,
    ) -> list[Generation]:
        """Texts for a batch, one row each; `Generation.ids` are what was written, the end included.

        `ending` None: texts end at [SEP].  Raises PromptError when nothing more fits the decoder's positions.
        """
        batch = _known(batch)
        source = self._look(batch)
        rows = len(source)
        if self.question is not None:
            source = self._ask(source, batch)
        prompt, mask = self._prompt(batch, rows, source.device)
        choices = per_row(options, rows)
        room = self.decoder.config.positions - prompt.shape[1]
        if room < 1:
            raise PromptError(f"FusionWriter: a prompt of {prompt.shape[1]} tokens leaves no position to write at")
        end = ending or Ending(eos=frozenset({self.ids.sep}))
        writers = [
            Writer(row=i, options=choice, limit=min(choice.max_tokens, room), ending=end)
            for i, choice in enumerate(choices)
        ]
        words = batch.get("attention_mask") if self.question is not None and self.rules.masked else None
        seen = None if words is None else MaskSpec(causal=False, attention_mask=words)
        if any(choice.beams > 1 for choice in choices):
            return self._search(prompt, mask, (source, seen), writers)
        pieces = self._write(prompt, mask, (source, seen), writers)
        lengths = mask.sum(-1).tolist()
        return [collected(parts, length, end) for parts, length in zip(pieces, lengths, strict=True)]

    def rank(self, source: Tensor, source_mask: Tensor | None, answers: Tensor, mask: Tensor, keep: int) -> Tensor:
        """Scores of a list of answers `[A, T]` (start and end ids included) for each source, `[B, A]`.

        A score is the sum of the words' log-probabilities, under the model's `rules`.  Only the `keep` answers with the
        likeliest first word are scored, the others get -inf.
        """
        start = answers[:1, :1].expand(len(source), 1)
        first = self.score(start, None, source, source_mask)[:, 0].log_softmax(-1)
        best = first[:, answers[:, 1]].topk(min(keep, len(answers)), dim=1).indices
        scores = source.new_full((len(source), len(answers)), float("-inf"))
        for row, chosen in enumerate(best):
            seen = None if source_mask is None else source_mask[row : row + 1].expand(len(chosen), -1)
            logits = self.score(answers[chosen], mask[chosen], source[row : row + 1].expand(len(chosen), -1, -1), seen)
            labels = answers[chosen].masked_fill(mask[chosen] == 0, -100)[:, 1:]
            losses = F.cross_entropy(
                logits[:, :-1].transpose(1, 2), labels, reduction="none", label_smoothing=self.rules.smoothing
            )
            again = first[row, answers[chosen, 1]] if self.rules.first_twice else 0.0
            scores[row, chosen] = again - losses.sum(-1)
        return scores

    def _write(self, prompt: Tensor, mask: Tensor, source: Source, writers: list[Writer]) -> list[list[Any]]:
        """Prefill, then token by token; pieces of each row."""
        cache, places, logits = self._begin(prompt, mask, source, max(writer.limit for writer in writers))
        prompts = _seen(prompt, mask)
        sampler = Sampler([writer.options for writer in writers], prompts)
        pieces: list[list[Any]] = [[] for _ in writers]
        while True:
            ids = sampler.choose(unended(logits, writers))
            for writer, index in zip(writers, ids, strict=True):
                if writer.finish_reason is None:
                    pieces[writer.row].append(writer.accept(index, logits[writer.row]))
            if all(writer.finish_reason is not None for writer in writers):
                return pieces
            places = places[:, -1:] + 1
            mask = torch.cat((mask, mask.new_ones(len(mask), 1)), 1)
            logits = self._step(torch.tensor(ids, device=mask.device)[:, None], places, mask, cache, source)

    def _search(self, prompt: Tensor, mask: Tensor, source: Source, writers: list[Writer]) -> list[Generation]:
        """Prefill, then beam search; the best text of each row."""
        beams, longest = writers[0].options.beams, max(writer.limit for writer in writers)
        if any(writer.options.beams != beams for writer in writers):
            raise ConfigError("FusionWriter: all rows need the same number of beams")
        held, places, logits = self._begin(prompt, mask, source, 0)
        size = len(prompt) * beams
        cache = copied(held, self.decoder.new_cache(size, prompt.shape[1] + longest), beams)
        states, seen = source
        words = None if seen is None or seen.attention_mask is None else seen.attention_mask
        if words is not None:
            seen = MaskSpec(causal=False, attention_mask=words.repeat_interleave(beams, 0))
        wide = states.repeat_interleave(beams, 0), seen
        shown, last = mask.repeat_interleave(beams, 0), places[:, -1:].repeat_interleave(beams, 0)

        def step(parents: Tensor, ids: list[int]) -> Tensor:
            nonlocal shown, last
            cache.reorder(parents)
            shown, last = torch.cat((shown, shown.new_ones(size, 1)), 1), last + 1
            return self._step(torch.tensor(ids, device=last.device)[:, None], last, shown, cache, wide)

        rows = [Beams(options=w.options, limit=w.limit, ends=w.ending.ends) for w in writers]
        prompts = _seen(prompt, mask)
        search(rows, prompts, logits.repeat_interleave(beams, 0), step)
        return [found(row, ids, w.ending) for row, ids, w in zip(rows, prompts, writers, strict=True)]

    def _begin(self, prompt: Tensor, mask: Tensor, source: Source, room: int) -> tuple[KVCache, Tensor, Tensor]:
        """The prompt read: the cache with `room` for more, the places of its tokens, logits behind it."""
        cache = self.decoder.new_cache(len(prompt), prompt.shape[1] + room)
        places = (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)
        return cache, places, self._step(prompt, places, mask, cache, source)

    def _step(self, ids: Tensor, places: Tensor, mask: Tensor, cache: KVCache, source: Source) -> Tensor:
        """Logits `[B, V]` at the last of `ids [B, T]`."""
        x = self.decoder.embed(ids, position_ids=places)
        states, seen = source
        rule = MaskSpec(attention_mask=mask)
        hidden = self.decoder.run(x, rule, source=states, source_mask=seen, cache=cache)
        return self._head(hidden[:, -1])

    def _prompt(self, batch: Mapping[str, Any], rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """What the decoder starts from, `[B, T]`, and its mask."""
        ids = batch.get("input_ids") if self.question is None else None
        if ids is None:
            start = torch.full((rows, 1), self.ids.bos, device=device)
            return start, torch.ones_like(start)
        ids = ids.clone()
        ids[:, 0] = self.ids.bos
        ids = ids[:, :-1]
        mask = batch.get("attention_mask")
        if mask is not None:
            return ids, mask[:, :-1]
        guess = self.ids.pad != self.ids.sep and bool((ids == self.ids.pad).any())
        return ids, (ids != self.ids.pad).long() if guess else torch.ones_like(ids)

    def _head(self, hidden: Tensor) -> Tensor:
        return self.head(hidden, self.decoder.embed_tokens.weight if self.tied else None)

    def _look(self, batch: Mapping[str, Any]) -> Tensor:
        resize = bool(batch.get("interpolate_pos_encoding", False))
        return self.image(batch_ids(batch, "pixel_values"), interpolate_pos_encoding=resize)

    def _ask(self, image: Tensor, batch: Mapping[str, Any]) -> Tensor:
        assert self.question is not None
        mask = MaskSpec(causal=False, attention_mask=batch.get("attention_mask"))
        return self.question.run(self.question.embed(batch_ids(batch, "input_ids")), mask, source=image)


def _seen(prompt: Tensor, mask: Tensor) -> list[list[int]]:
    """The ids of each row that a repetition penalty counts: from the first real one on, padding behind it too."""
    return [row[place.cumsum(-1) > 0].tolist() for row, place in zip(prompt, mask, strict=True)]


def batch_ids(batch: Mapping[str, Any], name: str) -> Tensor:
    """`batch[name]`; raises PromptError when it is not there."""
    if batch.get(name) is None:
        raise PromptError(f"FusionWriter: expected {name}, found {sorted(batch)}")
    return batch[name]


def _known(batch: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in batch.items() if value is not None}
    if unknown := sorted(set(given) - set(_INPUTS)):
        raise ConfigError(f"FusionWriter: does not know the inputs {unknown}; it takes {', '.join(_INPUTS)}")
    return given
