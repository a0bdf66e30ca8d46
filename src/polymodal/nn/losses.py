"""Loss functions: predictions and targets in, one number out.  Nothing here has parameters or a state.

language_model_loss   next token, at labels >= 0 only          masked_token_loss   hidden words or image tokens
classification_loss   classes, or independent yes and no       regression_loss     absolute error of a score
pair_loss             contrast of a batch of pairs             contrastive_loss    with several right partners
match_loss            does the pair belong together            names_loss          several right names (MIL-NCE)
negatives             hard negatives for the match     ctc_loss            sequences that are not aligned

CLIP (arXiv 2103.00020), ALBEF (2107.07651), BLIP (2201.12086), FLAVA (2112.04482), MIL-NCE (1912.06430), z-loss of
PaLM (2204.02311).
Traps: labels are -100 where nothing is learned; a batch in which nothing is learned gives a loss of 0 that still has a
gradient (zero), so that every process of a distributed run does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100


def token_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits [N, V] at labels [N] (-100: not learned), in float32.

    weights [N]: how much each label counts; the mean is over their sum.
    """
    each = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none", label_smoothing=smoothing)
    counted = (labels != IGNORE).to(each.dtype)
    if weights is not None:
        counted = counted * weights.to(each.dtype)
    return (each * counted).sum() / counted.sum().clamp_min(torch.finfo(each.dtype).tiny)


def z_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of the squared logarithm of the softmax's sum at learned positions: logits [N, V], labels [N]."""
    counted = (labels != IGNORE).float()
    squares = logits.float().logsumexp(-1).square()
    return (squares * counted).sum() / counted.sum().clamp_min(1.0)


def shifted(labels: Tensor) -> Tensor:
    """Labels aligned with the ids they are of -> with the position that predicts them: [B, T], the last is -100."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORE)


def language_model_loss(
    logits: Tensor, labels: Tensor, *, smoothing: float = 0.0, answer_weights: Tensor | None = None
) -> Tensor:
    """Next-token loss of logits [B, T, V] on labels [B, T] aligned with the input ids: the mean over learned tokens.

    answer_weights [B]: each answer is the sum over its tokens, counted by its weight, over B (ALBEF, BLIP).
    """
    wanted = shifted(labels)
    if answer_weights is None:
        return token_loss(logits.flatten(0, 1), wanted.flatten(), smoothing=smoothing)
    each = F.cross_entropy(logits.float().transpose(1, 2), wanted, reduction="none", label_smoothing=smoothing)
    return (answer_weights * each.sum(1)).sum() / len(logits)


def lm_head_loss(hidden: Tensor, head: Callable[[Tensor], Tensor], labels: Tensor) -> Tensor:
    """The same from hidden states [B, T, D]: the head is computed at learned positions only."""
    wanted = shifted(labels)
    learned = wanted != IGNORE
    return token_loss(head(hidden[learned]), wanted[learned])


def masked_token_loss(logits: Tensor, labels: Tensor, teacher: Tensor | None = None, alpha: float = 0.0) -> Tensor:
    """Cross-entropy of [..., V] at labels >= 0 (words, or image tokens), mixed with the teacher's distribution."""
    places = labels != IGNORE
    found = logits[places].float()
    loss = token_loss(found, labels[places])
    if teacher is None:
        return loss
    soft = -(found.log_softmax(-1) * teacher[places].float().softmax(-1)).sum(-1).mean()
    return (1 - alpha) * loss + alpha * soft


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Whole-number labels: cross-entropy over the last axis (-100: not counted).  Real labels of the logits' shape:
    binary cross-entropy, summed over the classes (soft scores of several right answers, VQA)."""
    if labels.is_floating_point():
        return F.binary_cross_entropy_with_logits(logits.float(), labels.float()) * logits.shape[-1]
    return token_loss(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))


def regression_loss(predictions: Tensor, labels: Tensor) -> Tensor:
    """Mean absolute error of equal shapes."""
    return (predictions.float() - labels.float()).abs().mean()


def pair_loss(logits: Tensor, kept: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Contrast in both directions: [B, B] logits of the first modality against the second, pair i on the diagonal.

    kept: bool [B], rows that are true pairs (FLAVA, where some pairs are negatives of the match).
    """
    rows = torch.arange(len(logits), device=logits.device)
    chosen = rows if kept is None else rows[kept]
    both = [F.cross_entropy(x[chosen], chosen, label_smoothing=smoothing) for x in (logits, logits.T)]
    return (both[0] + both[1]) / 2


def names_loss(logits: Tensor, right: Tensor) -> Tensor:
    """logits [B, V] of every name, right [B, V] bool with at least one true a row; mean of -log P(any right)."""
    total = torch.logsumexp(logits, dim=-1)
    hit = torch.logsumexp(logits.masked_fill(~right, float("-inf")), dim=-1)
    return (total - hit).mean()


def contrastive_loss(left: Tensor, right: Tensor, temperature: Tensor | float, groups: Tensor) -> Tensor:
    """left, right [B, D] unit vectors; groups [B] ints: rows of one group are positives of one another."""
    logits = left @ right.T / temperature
    same = groups[:, None] == groups[None]
    return 0.5 * (names_loss(logits, same) + names_loss(logits.T, same))


def match_loss(logits: Tensor, right: int) -> Tensor:
    """[R, 2] logits (no, yes) whose first `right` rows are true pairs."""
    labels = (torch.arange(len(logits), device=logits.device) < right).long()
    return F.cross_entropy(logits, labels)


@torch.no_grad()
def negatives(
    logits: Tensor,
    generator: torch.Generator | None = None,
    *,
    ids: Tensor | None = None,
    floor: float = 0.0,
) -> Tensor:
    """For each row of [B, B + ...] logits one wrong partner of the batch, drawn in proportion to its softmax: [B].

    ids: rows with one id are right for each other.  floor: added to every weight (fine-tuning and BLIP: 1e-4).
    """
    count = len(logits)
    weights = logits[:, :count].softmax(1) + floor
    same = torch.eye(count, dtype=torch.bool, device=logits.device) if ids is None else ids[:, None] == ids[None]
    weights = weights.masked_fill(same, 0)
    # A row without any wrong partner left would stop the draw.
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, (~same).float() + same.all(1, keepdim=True))
    return torch.multinomial(weights, 1, generator=generator)[:, 0]


def ctc_loss(logits: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
    """Connectionist temporal classification of logits [N, S, C] with real lengths [N]; the last class is the blank.

    Per target of each item, averaged over the batch; an item too short for its targets counts nothing.
    """
    sizes = torch.tensor([len(each) for each in targets])
    flat = torch.tensor([id for each in targets for id in each], dtype=torch.long)
    chances = logits.float().log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(chances, flat.to(logits.device), lengths, sizes, blank=logits.shape[-1] - 1, zero_infinity=True)
