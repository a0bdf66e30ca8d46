"""A detector's regions and texts -> the batches of ViLBERT, LXMERT and UNITER.

    RegionAnswers     questions about regions, each answer of the model's with a score
    RegionTexts       texts with hidden words, regions with hidden features, half of the texts another picture's

    {"regions": "a.npz", "caption": "..."}        {"regions": "all.tsv", "image_id": "42", "question": "...", ...}

Where tasks take turns (UNITER) a step is of one task, drawn by its number: every process draws the same.
Traps: what is asked of regions stands in their file (`soft_labels`, `objects_id`, ...), and the region of the whole
picture that ViLBERT puts in front has none; a text that takes another's place may be equal to it, and then fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from polymodal.data.datasets.mixture import Mixture
from polymodal.data.datasets.sample import Sample
from polymodal.data.region_features import RegionFeatures, Regions
from polymodal.data.region_processor import RegionProcessor
from polymodal.errors import ConfigError, PromptError
from polymodal.nn.losses import IGNORE
from polymodal.train.alignment import WordMasking
from polymodal.train.batches import BatchOptions, StepBatches, StepData, generator_at
from polymodal.train.collator import Collator, Learner, MicroBatch, WrongKind, counted
from polymodal.train.labelled import answer_scores, told_answers
from polymodal.train.pairs import cut, word_masking

TURN = 1 << 20  # apart from the numbers of masks, which are drawn by step and process


@dataclass(frozen=True, kw_only=True)
class RegionText:
    """feats [R, F], places [R, P] of the regions; ids of the text; classes [R, C], labels and confidence [R] by name:
    what the detector said of each; answer: its number, -100 where there is none."""

    feats: Tensor
    places: Tensor
    ids: list[int]
    classes: Tensor | None = None
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    confidence: Mapping[str, Tensor] = field(default_factory=dict)
    answer: int = IGNORE


def regions_of(sample: Sample) -> RegionFeatures:
    """Of a sample's one picture.  Raises WrongKind, or MediaError."""
    media = [*sample.media, *(each for message in sample.messages for each in message.media)]
    if len(media) != 1 or not isinstance(media[0], Regions):
        raise WrongKind(f"has {' and '.join(each.modality for each in media) or 'no media'}; expected regions")
    return media[0].values


@dataclass(frozen=True, kw_only=True)
class RegionAnswers(Collator):
    """Questions about the regions of a picture; answers that the model does not know are left out."""

    expects: ClassVar[str] = "regions of pictures with a question and its answers each"

    processor: RegionProcessor
    longest: int | None = None

    def item(self, sample: Sample) -> tuple[tuple[Tensor, Tensor], list[int], Tensor]:
        """Regions, ids of the question, a score for each answer."""
        found, question = regions_of(sample), sample.messages[0].text if sample.messages else ""
        if not question:
            raise WrongKind("has no question")
        scores = answer_scores(told_answers(sample), self.processor.answers)
        return self.processor.rules(found), cut(self.processor.ids(question), self.longest), scores

    def batch(self, items: Sequence[tuple[Any, list[int], Tensor]], generator: torch.Generator) -> MicroBatch:
        """The model's tensors, and labels [N, answers]."""
        seen, ids, scores = zip(*items, strict=True)
        found = self.processor.padded(seen) | self.processor.padded_texts(ids)
        return counted({**found, "labels": torch.stack(scores)}, len(items))


@dataclass(frozen=True, kw_only=True)
class RegionTexts(Collator):
    """share: of the regions that are hidden; kept, swapped: of those, how many stay as they are or become another
    region.  classes: how many a detector's probabilities have, 0: not asked for.  labels: how many of each name.
    needs_classes: regions without probabilities teach nothing.  answers: questions' answers are learned.
    tasks: what is done in a batch, of "words", "regions", "match".  turns: how often each has a step of its own; empty:
    all of them in every step.
    """

    expects: ClassVar[str] = "regions of pictures with a text each"
    compares: ClassVar[bool] = True

    processor: RegionProcessor
    masking: WordMasking
    share: float
    kept: float = 0.0
    swapped: float = 0.0
    classes: int = 0
    needs_classes: bool = False
    labels: Mapping[str, int] = field(default_factory=dict)
    answers: bool = False
    longest: int | None = None
    tasks: tuple[str, ...] = ("words", "regions", "match")
    turns: Mapping[str, int] = field(default_factory=dict)

    def item(self, sample: Sample) -> RegionText:
        """A question where there is one, else what is said of the picture."""
        found = regions_of(sample)
        texts = [message.text.strip() for message in sample.messages]
        asked = texts[0] if texts else sample.text
        text = asked or (texts[1] if len(texts) > 1 else "")
        if len(texts) > 2 or not text:
            raise WrongKind("has no text" if not text else f"has {len(texts)} turns; expected a caption or a question")
        rules = self.processor.rules
        feats, places = rules(found)
        told = Told(found=found, kept=rules.kept(found), whole_first=rules.whole_first)
        answer = IGNORE
        if self.answers and texts and asked:
            names = self.processor.answers
            said = {name: score for name, score in told_answers(sample).items() if name in names}
            answer = names.index(max(said, key=lambda name: said[name])) if said else IGNORE
        return RegionText(
            feats=feats,
            places=places,
            ids=cut(self.processor.ids(text), self.longest),
            classes=told.classes(self.classes, self.needs_classes),
            labels={name: told.labels(name, count) for name, count in self.labels.items()},
            confidence={name: told.confidence(name) for name in self.labels},
            answer=answer,
        )

    def batch(self, items: Sequence[RegionText], generator: torch.Generator) -> MicroBatch:
        """See train/region_pretraining.py."""
        count = len(items)
        partner = torch.arange(count)
        if "match" in self.tasks and count > 1:
            other = (partner + 1 + torch.randint(count - 1, (count,), generator=generator)) % count
            partner = torch.where(torch.rand(count, generator=generator) < 0.5, other, partner)
        texts = [items[row].ids for row in partner.tolist()]
        batch: dict[str, Any] = self.processor.padded([(each.feats, each.places) for each in items])
        batch |= self.processor.padded_texts(texts)
        own = torch.tensor([each.ids == text for each, text in zip(items, texts, strict=True)])
        if "match" in self.tasks:
            batch["matched"] = own.long()
        if "words" in self.tasks:
            batch["masked_input_ids"], batch["labels"] = self.masking(batch["input_ids"], generator)
        if self.answers:
            batch["answer_labels"] = torch.tensor([each.answer for each in items]).masked_fill(~own, IGNORE)
        if "regions" in self.tasks:
            batch |= self.hidden(items, batch, generator)
        return counted(batch, count)

    def hidden(
        self, items: Sequence[RegionText], batch: Mapping[str, Tensor], generator: torch.Generator
    ) -> dict[str, Any]:
        """Which regions are hidden, and what is asked of them."""
        feats, there = batch["visual_feats"], batch["visual_attention_mask"].bool()
        if self.processor.rules.whole_first:
            there = there & (torch.arange(there.shape[1]) > 0)
        hidden = (torch.rand(there.shape, generator=generator) < self.share) & there
        made = feats.masked_fill(hidden[..., None], 0)
        if self.kept or self.swapped:
            how = torch.rand(there.shape, generator=generator)
            others = feats[there]
            drawn = (
                others[torch.randint(max(1, len(others)), there.shape, generator=generator)] if len(others) else made
            )
            made = torch.where((hidden & (how < self.swapped))[..., None], drawn, made)
            stays = hidden & (how >= self.swapped) & (how < self.swapped + self.kept)
            made = torch.where(stays[..., None], feats, made)
        found: dict[str, Any] = {"masked_regions": hidden, "masked_visual_feats": made}
        classes = [each.classes for each in items]
        if classes and all(each is not None for each in classes):
            found["region_classes"] = pad_sequence([each for each in classes if each is not None], batch_first=True)
        if self.labels:
            found["region_labels"] = {
                name: pad_sequence([each.labels[name] for each in items], batch_first=True, padding_value=IGNORE)
                for name in self.labels
            }
            found["region_confidence"] = {
                name: pad_sequence([each.confidence[name] for each in items], batch_first=True) for name in self.labels
            }
        return found

    def steps(self, mixture: Mixture, options: BatchOptions) -> Any:
        """All tasks in every step, or one in each."""
        whole = StepBatches(collator=self, mixture=mixture, options=options)
        if not self.turns:
            return whole
        return TaskInTurn(
            tasks={task: replace(whole, collator=replace(self, tasks=(task,))) for task in self.turns},
            weights=tuple(self.turns.values()),
        )


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a file says of the regions that are kept; the whole picture in front of them has nothing said of it."""

    found: RegionFeatures
    kept: Any
    whole_first: bool

    def classes(self, count: int, needed: bool) -> Tensor | None:
        """Probabilities [R, C]; None where nothing is asked or told."""
        told = self.found.classes if count else None
        if told is None:
            if needed:
                raise PromptError(f"{self.found.name}: has no soft_labels, the detector's probabilities of each region")
            return None
        if told.ndim != 2 or told.shape[1] != count:
            raise PromptError(f"{self.found.name}: soft_labels are {list(told.shape)}; the model has {count} classes")
        made = torch.as_tensor(told[self.kept]).float()
        return F.pad(made, (0, 0, 1, 0)) if self.whole_first else made

    def labels(self, name: str, count: int) -> Tensor:
        """int64 [R].  Raises PromptError where the file has none, or one that the model does not know."""
        if name not in self.found.labels:
            raise PromptError(f"{self.found.name}: does not say the {name} of its regions, as LXMERT's .tsv files do")
        made = torch.as_tensor(self.found.labels[name][self.kept]).long()
        if len(made) and not 0 <= int(made.min()) <= int(made.max()) < count:
            raise PromptError(f"{self.found.name}: {name} are 0 to {count - 1} for this model, found {int(made.max())}")
        return F.pad(made, (1, 0), value=IGNORE) if self.whole_first else made

    def confidence(self, name: str) -> Tensor:
        """[R]; ones where the file does not say it."""
        given = self.found.confidence.get(name)
        made = torch.ones(len(self.kept)) if given is None else torch.as_tensor(given[self.kept]).float()
        return F.pad(made, (1, 0)) if self.whole_first else made


@dataclass(frozen=True, kw_only=True)
class TaskInTurn:
    """A step is of one task, drawn by its weight from the number of the step."""

    tasks: Mapping[str, StepBatches]
    weights: tuple[int, ...]

    def __getitem__(self, step: int) -> StepData:
        each = list(self.tasks.values())
        generator = generator_at(each[0].mixture.seed, step, TURN)
        return each[int(torch.multinomial(torch.tensor(self.weights).float(), 1, generator=generator))][step]

    def once(self) -> Iterator[StepData]:
        """See Steps."""
        return chain.from_iterable(each.once() for each in self.tasks.values())


def region_texts(learner: Learner, heads: Mapping[str, Any], **given: Any) -> RegionTexts:
    """For a model of regions with these heads.  given: fields of RegionTexts.  Raises ConfigError without a share of
    regions that are hidden."""
    processor = region_processor(learner)
    if learner.masked_patches is None:
        raise ConfigError("hiding regions needs the stage's data to say which share (masked_patches)")
    classes = heads["classes"].module.outputs if "classes" in heads else 0
    return RegionTexts(
        processor=processor,
        masking=word_masking(learner, learner.masked_words or 0.15),
        share=learner.masked_patches,
        longest=learner.max_length,
        classes=classes,
        **given,
    )


def region_processor(learner: Learner) -> RegionProcessor:
    """The model's.  Raises ConfigError for a model that reads no regions."""
    if not isinstance(learner.processor, RegionProcessor):
        raise ConfigError("this model has no processor of regions: its folder lacks the tokenizer")
    return learner.processor
