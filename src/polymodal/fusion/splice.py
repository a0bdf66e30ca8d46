"""Fusion type C: write features at placeholders of a sequence, and read hidden states back from them.

Flow
    input_ids  [B, T]     ... <boi> P P P P <eoi> what is this ...        P = placeholder token
    embeds     [B, T, D]  text embeddings; whatever stands at P is thrown away
    features   [N, Q, D]  items over the whole batch, in order of appearance
    splice(...) -> embeds [B, T, D] with features at P;   gather(...) -> the values at P

The length never changes: the processor has already repeated the placeholder once per feature.  The inverse,
`gather`, serves generators that are driven by hidden states at output placeholders (GILL, NExT-GPT, Emu).

A processor says how many placeholders it wrote for each item (`item_tokens`); against that the features are checked by
their shapes alone, and on an accelerator nothing is read back.  Tensors without such knowledge, and all that lie on the
host anyway, are checked by counting the placeholders themselves.

Traps
- A total that happens to fit can still be wrong per item (one picture cut by truncation, the next too long),
  so counts are checked per item.
- Items next to each other form one run of placeholders, and one item may be split by row-end tokens, so runs
  are compared with items only when a row has as many runs as items; the sum of a row is compared always.
  (Items that are split AND touch could be refused wrongly: put a token between them, as every system does.)
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from polymodal.errors import ConfigError, PromptError
from polymodal.fields import shown


def checked_placeholders(placeholders: Mapping[str, int]) -> dict[str, int]:
    """modality -> the id of its placeholder, from a config of anybody.  Raises ConfigError for what is no id."""
    for name, placeholder in placeholders.items():
        if not isinstance(placeholder, int) or isinstance(placeholder, bool):
            raise ConfigError(f"the placeholder of {name} must be a token's id, found {shown(placeholder)}")
    return dict(placeholders)


def splice(
    embeds: Tensor,
    input_ids: Tensor,
    features: Tensor | Sequence[Tensor],
    placeholder_id: int | Tensor,
    item_counts: Tensor | Sequence[int] | None = None,
    item_tokens: Sequence[int] | None = None,
) -> Tensor:
    """Replace the embeddings at the placeholders by the features of the items.

    embeds [B, T, D] is not modified; the values it holds at placeholders do not matter, NaN included.
    input_ids is int [B, T]; placeholder_id may also be a mask [B, T] of the places itself.  features is [N, Q, D], or
    a list of [q, D] where items differ in length, over the whole batch in order of appearance.  item_counts: items in
    each row; None: each row takes items in order until its placeholders are full.  item_tokens: the placeholders
    that were written for each of the N items.  Returns [B, T, D]; with no item and no placeholder this is `embeds`
    itself.

    Raises PromptError when an item has another number of features than placeholders, ConfigError when the
    widths or the number of items do not fit.
    """
    lengths = _item_lengths(features)
    mask = input_ids == placeholder_id if isinstance(placeholder_id, int) else placeholder_id.bool()
    if item_tokens is not None:
        _check_tokens(lengths, list(item_tokens))
    if item_tokens is None or mask.device.type == "cpu":
        given = infer_item_counts(mask, lengths) if item_counts is None else item_counts
        _check_counts(mask.cpu(), lengths, [int(count) for count in given])
    if not lengths:
        return embeds
    flat = features.flatten(0, 1) if isinstance(features, Tensor) else torch.cat(tuple(features))
    if flat.shape[-1] != embeds.shape[-1]:
        raise ConfigError(f"splice: features are {flat.shape[-1]} wide, the sequence is {embeds.shape[-1]} wide")
    if not len(flat):
        return embeds
    # The n-th placeholder of the batch takes the n-th feature; elsewhere any row will do, it is not looked at.
    index = (mask.flatten().cumsum(0) - 1).clamp(0, len(flat) - 1)
    rows = flat.to(embeds.dtype).index_select(0, index).view_as(embeds)
    return torch.where(mask[..., None], rows, embeds)


def infer_item_counts(mask: Tensor, lengths: Sequence[int]) -> list[int]:
    """How many items each row of `mask [B, T]` (True at placeholders) holds, when items of these lengths fill it up.

    A row that no whole number of items fills takes as many as fit, and items that are left over go to the last row, so
    that the check of `splice` names what is wrong.
    """
    counts, first = [], 0
    for wanted in mask.sum(-1).tolist():
        taken = first
        while wanted > 0 and taken < len(lengths):
            wanted -= lengths[taken]
            taken += 1
        counts.append(taken - first)
        first = taken
    if counts:
        counts[-1] += len(lengths) - first
    return counts


def gather(hidden: Tensor, input_ids: Tensor, placeholder_id: int) -> Tensor:
    """Read [B, T, D] at the placeholders: [M, D], row by row in order of position; M may be 0.

    The inverse of `splice`: for features [N, Q, D] the result equals `features.flatten(0, 1)`.
    """
    return hidden[input_ids == placeholder_id]


def _item_lengths(features: Tensor | Sequence[Tensor]) -> list[int]:
    if isinstance(features, Tensor) and features.dim() != 3:
        raise ConfigError(f"splice: features must be [N, Q, D], found {list(features.shape)}")
    return [item.shape[0] for item in features]


def _check_tokens(lengths: list[int], tokens: list[int]) -> None:
    """Compare the lengths of the items with the placeholders that the processor wrote for each."""
    if lengths == tokens:
        return
    if len(lengths) != len(tokens):
        raise PromptError(f"splice: the processor announces {len(tokens)} items, but features holds {len(lengths)}")
    item = next(i for i, pair in enumerate(zip(lengths, tokens, strict=True)) if pair[0] != pair[1])
    raise PromptError(
        f"item {item}: the processor wrote {tokens[item]} placeholder tokens, the encoder gave {lengths[item]} "
        "features; `tokens` of its modality must count what the connector gives"
    )


def _check_counts(mask: Tensor, lengths: list[int], counts: list[int]) -> None:
    """Compare the placeholders of every row [B, T] with the lengths of its items."""
    if len(counts) != len(mask):
        raise ConfigError(f"splice: item_counts has {len(counts)} rows, input_ids has {len(mask)}")
    if sum(counts) != len(lengths):
        raise PromptError(f"splice: item_counts announces {sum(counts)} items, but features holds {len(lengths)}")
    if not lengths and not bool(mask.any()):
        return
    first = 0
    for row, count in enumerate(counts):
        expected = lengths[first : first + count]
        values, runs = torch.unique_consecutive(mask[row], return_counts=True)
        found = runs[values].tolist()
        if sum(found) != sum(expected) or (len(found) == count and found != expected):
            raise PromptError(_mismatch(row, first, expected, found))
        first += count


def _mismatch(row: int, first: int, expected: list[int], found: list[int]) -> str:
    """The message for the first item of a row that does not fit."""
    advice = "the processor and the encoder disagree, or the prompt was cut"
    if len(found) != len(expected):  # runs cannot be told apart: deal the row's placeholders out in order
        left, taken = sum(found), []
        for length in expected:
            taken.append(min(length, left))
            left -= taken[-1]
        if left:
            items = f"its {len(expected)} items"
            return f"row {row}: {left} placeholder tokens are left over after {items}; {advice}"
        found = taken
    item = next(i for i, pair in enumerate(zip(expected, found, strict=True)) if pair[0] != pair[1])
    return (
        f"item {first + item} (row {row}): expected {expected[item]} placeholder tokens, found {found[item]}; {advice}"
    )
