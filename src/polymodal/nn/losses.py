"""Loss functions without parameters or state; each returns a scalar.

language_model_loss   next token, where labels >= 0            masked_token_loss   masked words or image tokens
classification_loss   classes, or independent binary labels    regression_loss     mean absolute error
pair_loss             contrastive, one positive per row        contrastive_loss    several positives per row
match_loss            binary image-text matching               names_loss          several correct names (MIL-NCE)
negatives             samples hard negatives for matching   ctc_loss            sequences that are not aligned

CLIP (arXiv 2103.00020), ALBEF (2107.07651), BLIP (2201.12086), FLAVA (2112.04482), MIL-NCE (1912.06430), z-loss of
PaLM (2204.02311).
Traps: labels of -100 are ignored; if all labels of a batch are ignored, the loss is 0 and its gradients are zero, not
None, so that all processes of a distributed run do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORE = -100


def token_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of logits [N, V] and labels [N] (-100: ignored), in float32.

    weights [N]: weight of each label; the mean is over their sum.
    """
    each = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE, reduction="none", label_smoothing=smoothing)
    counted = (labels != IGNORE).to(each.dtype)
    if weights is not None:
        counted = counted * weights.to(each.dtype)
    return (each * counted).sum() / counted.sum().clamp_min(torch.finfo(each.dtype).tiny)


def z_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean squared log of the softmax normaliser where labels are not -100: logits [N, V], labels [N]."""
    counted = (labels != IGNORE).float()
    squares = logits.float().logsumexp(-1).square()
    return (squares * counted).sum() / counted.sum().clamp_min(1.0)


def shifted(labels: Tensor) -> Tensor:
    """Shift labels [B, T] left by one, from the position of each token to the position that predicts it; pads -100."""
    return F.pad(labels[:, 1:], (0, 1), value=IGNORE)


def language_model_loss(
    logits: Tensor, labels: Tensor, *, smoothing: float = 0.0, answer_weights: Tensor | None = None
) -> Tensor:
    """Next-token loss of logits [B, T, V]; labels [B, T] are aligned with the input ids.  Mean over labels >= 0.

    answer_weights [B]: the weighted sum over all tokens, divided by B, instead (ALBEF, BLIP).
    """
    targets = shifted(labels)
    if answer_weights is None:
        return token_loss(logits.flatten(0, 1), targets.flatten(), smoothing=smoothing)
    each = F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none", label_smoothing=smoothing)
    return (answer_weights * each.sum(1)).sum() / len(logits)


def lm_head_loss(hidden: Tensor, head: Callable[[Tensor], Tensor], labels: Tensor) -> Tensor:
    """`language_model_loss` from hidden states [B, T, D]; computes the head only where labels are not -100."""
    targets = shifted(labels)
    valid = targets != IGNORE
    return token_loss(head(hidden[valid]), targets[valid])


def masked_token_loss(logits: Tensor, labels: Tensor, teacher: Tensor | None = None, alpha: float = 0.0) -> Tensor:
    """Cross-entropy of logits [..., V] where labels >= 0, mixed with distillation from `teacher` logits by `alpha`."""
    valid = labels != IGNORE
    predicted = logits[valid].float()
    loss = token_loss(predicted, labels[valid])
    if teacher is None:
        return loss
    soft = -(predicted.log_softmax(-1) * teacher[valid].float().softmax(-1)).sum(-1).mean()
    return (1 - alpha) * loss + alpha * soft


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Integer labels: cross-entropy over the last axis (-100: ignored).  Float labels of the logits' shape: binary
    cross-entropy, summed over the classes (soft scores of several correct answers, VQA)."""
    if labels.is_floating_point():
        return F.binary_cross_entropy_with_logits(logits.float(), labels.float()) * logits.shape[-1]
    return token_loss(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))


def regression_loss(predictions: Tensor, labels: Tensor) -> Tensor:
    """Mean absolute error; both have the same shape."""
    return (predictions.float() - labels.float()).abs().mean()


def pair_loss(logits: Tensor, is_pair: Tensor | None = None, smoothing: float = 0.0) -> Tensor:
    """Symmetric contrastive loss of logits [B, B] (first modality x second), positives on the diagonal.

    is_pair: bool [B], rows that are true pairs (FLAVA, whose batches contain mismatched pairs for the match loss).
    """
    rows = torch.arange(len(logits), device=logits.device)
    rows = rows if is_pair is None else rows[is_pair]
    both = [F.cross_entropy(x[rows], rows, label_smoothing=smoothing) for x in (logits, logits.T)]
    return (both[0] + both[1]) / 2


def names_loss(logits: Tensor, positives: Tensor) -> Tensor:
    """logits [B, V] over names, positives bool [B, V], at least one per row; mean of -log P(any positive)."""
    total = torch.logsumexp(logits, dim=-1)
    positive = torch.logsumexp(logits.masked_fill(~positives, float("-inf")), dim=-1)
    return (total - positive).mean()


def contrastive_loss(left: Tensor, right: Tensor, temperature: Tensor | float, groups: Tensor) -> Tensor:
    """left, right [B, D] unit vectors; groups int [B]: rows of the same group are positives."""
    logits = left @ right.T / temperature
    same = groups[:, None] == groups[None]
    return 0.5 * (names_loss(logits, same) + names_loss(logits.T, same))


def match_loss(logits: Tensor, positives: int) -> Tensor:
    """Cross-entropy of logits [R, 2] (no, yes) whose first `positives` rows are true pairs."""
    labels = (torch.arange(len(logits), device=logits.device) < positives).long()
    return F.cross_entropy(logits, labels)


@torch.no_grad()
def negatives(
    logits: Tensor,
    generator: torch.Generator | None = None,
    *,
    ids: Tensor | None = None,
    floor: float = 0.0,
) -> Tensor:
    """One negative per row of logits [B, B + ...], sampled from the batch in proportion to the softmax: int64 [B].

    ids: rows with the same id are positives.  floor: added to every weight (fine-tuning and BLIP: 1e-4).
    """
    count = len(logits)
    weights = logits[:, :count].softmax(1) + floor
    same = torch.eye(count, dtype=torch.bool, device=logits.device) if ids is None else ids[:, None] == ids[None]
    weights = weights.masked_fill(same, 0)
    # multinomial fails on a row without any negative.
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, (~same).float() + same.all(1, keepdim=True))
    return torch.multinomial(weights, 1, generator=generator)[:, 0]


def ctc_loss(logits: Tensor, lengths: Tensor, targets: Sequence[Sequence[int]]) -> Tensor:
    """Connectionist temporal classification of logits [N, S, C] with real lengths [N]; the last class is the blank.

    Per target of each item, averaged over the batch; an item too short for its targets counts nothing.
    """
    sizes = torch.tensor([len(each) for each in targets])
    flat = torch.tensor([id for each in targets for id in each], dtype=torch.long)
    chances = logits.float().log_softmax(-1).transpose(0, 1)
    sizes, flat = sizes.to(lengths.device), flat.to(logits.device)
    return F.ctc_loss(chances, flat, lengths, sizes, blank=logits.shape[-1] - 1, zero_infinity=True)
