"""What training on aligned pictures and texts needs beside a loss: a momentum teacher, queues, masks.

    student, teacher features -> contrast(...)  -> loss and similarities -> nn.losses.negatives -> pairs to match
    WordMasking, PatchMasking -> the model's logits -> nn.losses.masked_token_loss (hard labels, or the teacher's too)

ALBEF (arXiv 2107.07651), BLIP (2201.12086), FLAVA (2112.04482); blockwise masks of BEiT (2106.08254); queue of MoCo
(1911.05722).
Two styles of temperature: `temperature` divides (ALBEF, a learned 0.07 kept in 0.001 .. 0.5), `log_scale` is the
logarithm of a factor (CLIP, FLAVA, kept below ln 100).  `scaled` takes either.
Traps: the teacher moves BEFORE its features are computed; negatives come from the local batch, contrast from the queue
as well; the loss of masked words is a mean over masked places, that of answers a sum over words.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.train.ranks import whole


def scaled(similarity: Tensor, *, temperature: Tensor | float | None = None, log_scale: Tensor | None = None) -> Tensor:
    """Cosines -> logits by a divisor or by the logarithm of a factor; exactly one is given."""
    if temperature is not None and log_scale is None:
        return similarity / temperature
    if temperature is None and log_scale is not None:
        return similarity * log_scale.exp()
    raise ConfigError("contrast: give either temperature or log_scale")


@torch.no_grad()
def keep_within(parameter: Tensor, low: float, high: float) -> None:
    """Clamp a learned temperature in place, as the published runs do after a step."""
    parameter.clamp_(low, high)


class FeatureQueue(nn.Module):
    """The last `size` teacher features of pictures and texts, `[E, size]`, and their pictures' ids (-100: none)."""

    images: Tensor
    texts: Tensor
    ids: Tensor
    place: Tensor

    def __init__(self, size: int, width: int):
        super().__init__()
        self.register_buffer("images", F.normalize(torch.randn(width, size), dim=0))
        self.register_buffer("texts", F.normalize(torch.randn(width, size), dim=0))
        self.register_buffer("ids", torch.full((size,), -100))
        self.register_buffer("place", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, images: Tensor, texts: Tensor, ids: Tensor | None = None) -> None:
        """Put a batch of unit vectors `[B, E]` in place of the oldest; raises ConfigError if B exceeds its size.

        A batch may be smaller than the others (damaged samples), so that its end may lie at the queue's beginning.
        """
        size, count = self.ids.shape[0], len(images)
        if count > size:
            raise ConfigError(f"feature queue: it holds {size} vectors, which a batch of {count} exceeds")
        span = (torch.arange(count, device=images.device) + self.place) % size
        self.images[:, span], self.texts[:, span] = images.T, texts.T
        if ids is not None:
            self.ids[span] = ids
        self.place.copy_((self.place + count) % size)


class Teacher(nn.Module):
    """An exponential moving average of a model, which gives features and soft targets; never trained.

    It is made before a model is shared out among processes, each of which holds all of it.
    """

    def __init__(self, student: nn.Module, momentum: float = 0.995):
        super().__init__()
        self.model = copy.deepcopy(student).requires_grad_(False)
        self.momentum = momentum

    @torch.no_grad()
    def follow(self, student: nn.Module) -> None:
        """One step towards the student, parameter by parameter.  Collective where the student is shared out."""
        for mine, theirs in zip(self.model.parameters(), student.parameters(), strict=True):
            mine.lerp_(whole(theirs), 1 - self.momentum)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """loss; image_to_text `[B, B + queue]` and text_to_image: logits of the student, the batch in front."""

    loss: Tensor
    image_to_text: Tensor
    text_to_image: Tensor


def contrast(
    student: tuple[Tensor, Tensor],
    teacher: tuple[Tensor, Tensor],
    queue: FeatureQueue | None,
    scale: Callable[[Tensor], Tensor],
    *,
    alpha: float = 0.0,
    ids: Tensor | None = None,
) -> Contrast:
    """Both directions against [teacher features of the batch ; queue].  Pairs are (picture, text) unit vectors [B, E].

    alpha: share of the teacher's own similarities in the targets.  ids [B] of the pictures: equal ones are positives
    (fine-tuning on several captions a picture); None: only the diagonal is.
    """
    image, text = teacher[0].T, teacher[1].T
    if queue is not None:
        image, text = torch.cat((image, queue.images), 1), torch.cat((text, queue.texts), 1)
    with torch.no_grad():
        hard = torch.eye(len(student[0]), image.shape[1], device=image.device)
        if ids is not None:
            everyone = ids if queue is None else torch.cat((ids, queue.ids))
            hard = (ids[:, None] == everyone[None]).float()
            hard = hard / hard.sum(1, keepdim=True)
        soft = [scale(teacher[0] @ text).softmax(1), scale(teacher[1] @ image).softmax(1)]
        targets = [alpha * x + (1 - alpha) * hard for x in soft]
    found = [scale(student[0] @ text), scale(student[1] @ image)]
    losses = [-(x.log_softmax(1) * target).sum(1).mean() for x, target in zip(found, targets, strict=True)]
    return Contrast(loss=(losses[0] + losses[1]) / 2, image_to_text=found[0], text_to_image=found[1])


@dataclass(frozen=True, kw_only=True)
class WordMasking:
    """Which words are hidden: of `probability` of them 80% become `mask`, 10% a random word, 10% stay."""

    mask: int
    vocabulary: int
    exempt: Sequence[int]
    probability: float = 0.15

    def __call__(self, input_ids: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """ids [B, T] -> ids with masks, labels (-100 where nothing is hidden)."""
        draw = torch.rand((3, *input_ids.shape), generator=generator).to(input_ids.device)
        hidden = (draw[0] < self.probability) & ~torch.isin(input_ids, input_ids.new_tensor(list(self.exempt)))
        labels = input_ids.masked_fill(~hidden, -100)
        words = torch.randint(self.vocabulary, tuple(input_ids.shape), generator=generator).to(input_ids.device)
        masked = torch.where(hidden & (draw[1] < 0.8), self.mask, input_ids)
        return torch.where(hidden & (draw[1] >= 0.8) & (draw[2] < 0.5), words, masked), labels


@dataclass(frozen=True, kw_only=True)
class PatchMasking:
    """BEiT's blockwise masks: rectangles of `smallest` patches and more, aspect ratio up to 1 : 1 / `aspect`, until
    `count` of the grid's patches are hidden."""

    grid: tuple[int, int] = (14, 14)
    count: int = 75
    smallest: int = 16
    aspect: float = 0.3

    def __call__(self, generator: torch.Generator | None = None) -> Tensor:
        """bool [h, w], at most `count` true; fewer only when ten tries in a row find no place."""
        hidden = torch.zeros(self.grid, dtype=torch.bool)
        while (left := self.count - int(hidden.sum())) > 0:
            if not self._block(hidden, left, generator):
                break
        return hidden

    def _block(self, hidden: Tensor, left: int, generator: torch.Generator | None) -> bool:
        def between(low: float, high: float) -> float:
            return low + float(torch.rand((), generator=generator)) * (high - low)

        for _ in range(10):
            area = between(min(self.smallest, left), max(self.smallest, left))
            ratio = math.exp(between(math.log(self.aspect), -math.log(self.aspect)))
            height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if not (0 < height < self.grid[0] and 0 < width < self.grid[1]):
                continue
            top = int(between(0, self.grid[0] - height + 1))
            start = int(between(0, self.grid[1] - width + 1))
            block = hidden[top : top + height, start : start + width]
            if 0 < int((~block).sum()) <= left:
                block[:] = True
                return True
        return False
