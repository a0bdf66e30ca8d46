"""Which item each text token sees, and the features of a batch's items as one context for cross-attention.

Paper: Flamingo (arXiv 2204.14198), section 2.3: a token sees only the last picture before it; what came earlier
reaches it through the text.

Flow
    input_ids [B, T] with ONE placeholder per item  --visible_items-->  visible bool [B, T, N]
    features {modality: [items, Q, D]}, items of all rows in order of appearance
                              --InterleavedContext-->  CrossContext(features [B, S, D], items [B, S], visible)

Traps
- The placeholder itself already sees its item.
- MultiModal-GPT looks ahead (`following`): text sees the NEXT picture, behind the last one none; placeholders as ever.
- IDEFICS forgets the picture after an end token (the end token still sees it), until the next picture.
- A batch may bring the visibility itself (`image_attention_mask [B, T, N]`), or its pictures as a table [B, N, ...];
  then every row has N items, and those that only pad it are seen by no token.
- In packed rows (`segments`) a token sees items of its own segment only; text in front of the segment's first picture
  sees none, though there are pictures before it in the row.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.errors import PromptError
from polymodal.fusion.cross_attention import CrossContext
from polymodal.fusion.routing import before
from polymodal.fusion.splice import checked_placeholders
from polymodal.nn.segments import counted_within, largest_within


def visible_items(
    placeholders: Tensor,
    items: int,
    *,
    every: bool = False,
    following: bool = False,
    ends: Tensor | None = None,
    segments: Tensor | None = None,
) -> Tensor:
    """Bool [B, T, items]: the last item at or before each token, all of them with `every`, the next with `following`.

    placeholders: bool [B, T], True at each item's one placeholder.  ends: bool [B, T], tokens behind which nothing
    is seen until the next item.  segments: int [B, T] of packed rows; what stands in another segment is not seen.
    """
    steps = placeholders.long()
    count = steps.cumsum(-1)
    index = torch.arange(1, items + 1, device=placeholders.device)
    if following:
        last = count[:, -1:] if segments is None else largest_within(count, segments)
        ahead = count + (~placeholders).long()
        return (ahead[..., None] == index) & (ahead <= last)[..., None]
    seen = count[..., None] >= index if every else count[..., None] == index
    if segments is not None:
        earlier = count - counted_within(count, steps, segments)  # items of the segments before
        seen = seen & (index > earlier[..., None])
    if ends is None:
        return seen
    ended = torch.where(ends, count, -1).cummax(-1).values
    before = torch.nn.functional.pad(ended, (1, 0), value=-1)[:, :-1]  # the last end strictly before each token
    return seen & (before != count)[..., None]


class InterleavedContext(nn.Module):
    """A `context` for MultimodalLM: `f(features by modality, batch) -> CrossContext`; it has no parameters.

    placeholders: {modality: id}, one such token per item; a batch has items of one only of those that share a token.
    every: see all items before a token, not only the last.  following: see the next item instead.  ends: ids behind
    which items are forgotten.  given: name of a batch entry bool or int [B, T, N] that replaces the rule.  table: the
    name of the pictures; where they have two dimensions or more before channel, height and width, these are [B, N].
    With either, one modality only and N items in every row.
    """

    def __init__(
        self,
        placeholders: Mapping[str, int],
        *,
        every: bool = False,
        following: bool = False,
        ends: Collection[int] = (),
        given: str = "",
        table: str = "",
    ) -> None:
        super().__init__()
        self.placeholders = checked_placeholders(placeholders)
        self.every, self.following, self.given, self.table = every, following, given, table
        self.ends = tuple(ends)
        self.input_names = frozenset({given} - {""})

    def forward(self, features: Mapping[str, Any], batch: Mapping[str, Any]) -> CrossContext:
        """features: [items, Q, D] or a list of [q, D] for each modality.  Raises PromptError when items and
        placeholders differ in number."""
        ids = batch["input_ids"]
        given = batch.get(self.given)
        if given is not None:
            visible = given.to(device=ids.device, dtype=torch.bool)
            return packed(self._equal_rows(features, len(ids), visible.shape[-1]), visible)
        table = batch.get(self.table)
        if isinstance(table, Tensor) and table.dim() > 4:
            rows = self._equal_rows(features, len(ids), table.shape[1])
        else:
            rows = self._rows(features, ids, batch)
        rule = visible_items(
            _any_of(ids, self.placeholders.values()),
            max(map(len, rows)),
            every=self.every,
            following=self.following,
            ends=_any_of(ids, self.ends) if self.ends else None,
            segments=batch.get("segments"),
        )
        if self.following:  # what is written behind the prompt sees what its last token saw, and that is nothing here
            rule = torch.nn.functional.pad(rule, (0, 0, 0, 1))
        return packed(rows, rule)

    def _equal_rows(self, features: Mapping[str, Any], rows: int, count: int) -> list[Sequence[Tensor]]:
        flat = [item for found in features.values() for item in found]
        if not flat:
            return [()] * rows
        if len(flat) != rows * count:
            raise PromptError(f"{rows} rows of {count} items are announced, found {len(flat)}; pad every row")
        return [flat[row * count : (row + 1) * count] for row in range(rows)]

    def _rows(self, features: Mapping[str, Any], ids: Tensor, batch: Mapping[str, Any]) -> list[Sequence[Tensor]]:
        """The items of each row in order of appearance; dummy items stand behind those of the first row, unseen.

        Of one modality alone the processor's counts tell it, and ids on an accelerator are not read back.
        """
        counts, dummies = batch.get("item_counts") or {}, batch.get("dummy_modalities") or ()
        names = {index: name for name, index in reversed(self.placeholders.items())}
        names |= {index: name for name, index in self.placeholders.items() if name in features}
        left = {name: list(features.get(name, ())) for name in names.values()}
        if len(left) == 1 and ids.device.type != "cpu" and (name := next(iter(left))) in counts:
            wanted = [[name] * count for count in torch.as_tensor(counts[name]).tolist()]
        else:
            wanted = [[names[index] for index in row if index in names] for row in ids.tolist()]
        rows: list[Sequence[Tensor]] = []
        for number, row in enumerate(wanted):
            for name in set(row):
                if row.count(name) > len(left[name]):
                    raise PromptError(
                        f"row {number}: {row.count(name)} {name} placeholders, {len(left[name])} items are left"
                    )
            rows.append([left[name].pop(0) for name in row])
        rows[0] = [*rows[0], *(item for name in dummies for item in left.pop(name, ()))]
        if lost := {name: len(items) for name, items in left.items() if items}:
            raise PromptError(f"items without a placeholder token: {lost}; the prompt was cut or lacks them")
        return rows


class RowPictures(nn.Module):
    """A `context` in which every token of a sequence, those before its pictures too, sees all of these (CogAgent).

    modality: whose features they are.  beside: the modality whose placeholders, one run an item, tell how many items
    a row has; both are views of the same pictures.  mask: the batch entry bool [B, T] of those placeholders.
    """

    input_names: frozenset[str] = frozenset()

    def __init__(self, modality: str, *, beside: str, mask: str) -> None:
        super().__init__()
        self.modality, self.beside, self.mask = modality, beside, mask

    def forward(self, features: Mapping[str, Any], batch: Mapping[str, Any]) -> CrossContext | None:
        """None without items.  Raises PromptError when the two views, or items and placeholders, differ in number."""
        items, seen = features.get(self.modality, ()), features.get(self.beside, ())
        if len(items) != len(seen):
            raise PromptError(f"pictures come in two sizes: found {len(seen)} of {self.beside} and {len(items)} of "
                              f"{self.modality}; give both")  # fmt: skip
        if not len(items):
            return None
        placed, given = batch[self.mask].bool(), batch.get("segments")
        segments = torch.ones_like(placed, dtype=torch.int64) if given is None else given + 1
        begins = placed & ~before(placed, given)
        known = (batch.get("item_counts") or {}).get(self.beside)
        counts = [int(count) for count in (begins.sum(-1) if known is None else known)]
        if self.modality in (batch.get("dummy_modalities") or ()):
            counts = [len(items), *[0] * (len(counts) - 1)]  # held by the first row, seen by nobody
        if sum(counts) != len(items):
            raise PromptError(
                f"{sum(counts)} runs of {self.beside} placeholders, {len(items)} items; put words between"
            )
        index = torch.arange(1, max(counts) + 1, device=placed.device)
        starts = begins[..., None] & (begins.long().cumsum(-1)[..., None] == index)
        owners = (segments[..., None] * starts).amax(1, keepdim=True)  # [B, 1, N], 0 for none
        rows = [list(items[sum(counts[:row]) : sum(counts[: row + 1])]) for row in range(len(counts))]
        return packed(rows, segments[..., None] == owners)


class WithItems(nn.Module):
    """A context that is None where a batch has no item at all: the gated blocks are then left out as a whole."""

    def __init__(self, context: InterleavedContext) -> None:
        super().__init__()
        self.context = context
        self.input_names = context.input_names

    def forward(self, features: Mapping[str, Any], batch: Mapping[str, Any]) -> CrossContext | None:
        """As the context within; None without features.

        Raises PromptError for packed rows, and for rows with and without items in one batch: the blocks would run for
        all of them.
        """
        if batch.get("segments") is not None:
            raise PromptError("segments: this model leaves blocks out for a whole row; collate the rows unpacked")
        known = [torch.as_tensor(rows) for rows in (batch.get("item_counts") or {}).values()]
        if known and (has := torch.stack(known).sum(0) > 0).any() and not has.all():
            raise PromptError("rows with and without a picture: this model takes them in batches of their own")
        return self.context(features, batch) if any(len(found) for found in features.values()) else None


def _any_of(ids: Tensor, wanted: Iterable[int]) -> Tensor:
    """Bool like `ids`: which of them are among `wanted`; the numbers are not copied to the device."""
    found = torch.zeros_like(ids, dtype=torch.bool)
    for index in wanted:
        found = found | (ids == index)
    return found


def packed(rows: Sequence[Sequence[Tensor]], visible: Tensor) -> CrossContext:
    """Rows of items [q, D] side by side, padded to equal length; the padding belongs to the item nobody sees."""
    count = visible.shape[-1]
    lengths = [[len(item) for item in row] for row in rows]
    size = max((sum(row) for row in lengths), default=0)
    items = torch.full((len(rows), size), count, dtype=torch.int64)
    for number, row in enumerate(lengths):
        owners = torch.arange(len(row)).repeat_interleave(torch.tensor(row, dtype=torch.int64))
        items[number, : len(owners)] = owners
    items = items.to(visible.device, non_blocking=True)
    if size == 0:
        return CrossContext(features=None, items=items, visible=visible)
    like = next(row[0] for row in rows if row)
    padded = [
        torch.cat((*row, like.new_zeros(size - sum(held), like.shape[-1])))
        for row, held in zip(rows, lengths, strict=True)
    ]
    return CrossContext(features=torch.stack(padded), items=items, visible=visible)
