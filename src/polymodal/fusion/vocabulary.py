"""Fusion type D: the codes of a codec as ids of the language model's own vocabulary.

    codec ids [...] -> from_codec("image", ids) -> token ids [...] -> the backbone's one embedding table
    token ids that the backbone writes -> to_codec("image", ids) -> codec ids -> pixels

A codec's codes lie in one range (`Span`) or anywhere (`Table`, Chameleon's names in a text tokenizer).  Nothing inside
a block knows of them; the embedding and the head are sized by `rows`.  `NewRows` puts the new ids in a second table, so
that the first can stay frozen.
Traps: a code is not its token's id, and orders differ; padding rows belong to nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from polymodal.errors import ConfigError, PromptError, UnknownName


@dataclass(frozen=True, kw_only=True)
class Span:
    """Codes 0 .. count - 1 are the ids from `start` on."""

    start: int
    count: int

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(range(self.start, self.start + self.count))

    @property
    def codes(self) -> tuple[int, ...]:
        return tuple(range(self.count))


@dataclass(frozen=True, kw_only=True)
class Table:
    """`codes[i]` is the id `ids[i]`.  missing: the id of every lower code that is not named; None refuses those."""

    codes: tuple[int, ...]
    ids: tuple[int, ...]
    missing: int | None = None

    def __post_init__(self) -> None:
        if len(self.codes) != len(self.ids) or len(set(self.codes)) != len(self.codes):
            raise ConfigError("vocabulary: a table needs one id for each code, and each code once")
        if self.codes and min(self.codes) < 0:
            raise ConfigError(f"vocabulary: codes start at 0, found {min(self.codes)}")

    @classmethod
    def of(cls, mapping: Mapping[int, int], missing: int | None = None) -> Table:
        """From {code: id}."""
        codes = sorted(mapping)
        return cls(codes=tuple(codes), ids=tuple(mapping[code] for code in codes), missing=missing)

    @classmethod
    def named(cls, names: Mapping[str, int], code: Callable[[str], int | None]) -> Table:
        """From a published `vocabulary_map`: token name -> id; code(name) -> its code, None for a name of another kind.

        Lower codes that no name spells are read as id 0, as the transformers library does.
        """
        found = {number: id for name, id in names.items() if (number := code(name)) is not None}
        return cls.of(found, missing=0 if len(found) <= max(found, default=-1) else None)


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """Which ids belong to whom.  size: ids of text and codecs together; multiple: the embedding is padded to it.

    Raises ConfigError when two codecs share an id, or one lies outside.
    """

    size: int
    codecs: Mapping[str, Span | Table] = field(default_factory=dict)
    multiple: int = 1

    def __post_init__(self) -> None:
        owner: dict[int, str] = {}
        for name, codec in self.codecs.items():
            ids = codec.ids
            if ids and not (min(ids) >= 0 and max(ids) < self.size):
                raise ConfigError(
                    f"vocabulary: ids of {name} must lie in 0..{self.size - 1}; found {min(ids)}..{max(ids)}"
                )
            for id in ids:
                if id in owner:
                    raise ConfigError(f"vocabulary: id {id} belongs to {owner[id]} already, {name} cannot have it")
                owner[id] = name

    @property
    def rows(self) -> int:
        """Rows of the embedding: `size`, padded."""
        return -(-self.size // self.multiple) * self.multiple

    def ids(self, codec: str) -> Tensor:
        """int64 ids of a codec in the order of its codes."""
        return self._tables[self._known(codec)][2]

    def from_codec(self, codec: str, codes: Tensor, known: bool = False) -> Tensor:
        """codes int [...] -> ids int64 [...].  Raises PromptError for a code that has no id.

        known: the codes are a codec's own output.  Where every code has an id these need no check, which on an
        accelerator would make the host wait; on the host they are checked all the same.
        """
        if known and codes.device.type != "cpu" and self._whole[self._known(codec)]:
            return self._on(codec, codes.device)[codes.long()]
        table = self._tables[self._known(codec)][0].to(codes.device)
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < len(table):
            raise PromptError(f"codes of {codec} must lie in 0..{len(table) - 1}; found {_range(codes)}")
        return self._found(table[codes.long()], codec, codes, "code", "id")

    def to_codec(self, codec: str, ids: Tensor) -> Tensor:
        """ids int [...] -> codes int64 [...].  Raises PromptError for an id that is none of this codec's."""
        table = self._tables[self._known(codec)][1].to(ids.device)
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < len(table):
            raise PromptError(f"ids must lie in 0..{len(table) - 1}; found {_range(ids)}")
        return self._found(table[ids.long()], codec, ids, "id", "code")

    def _known(self, codec: str) -> str:
        if codec not in self.codecs:
            raise UnknownName(f"vocabulary: no codec {codec!r}; known: {', '.join(self.codecs) or 'none'}")
        return codec

    def _on(self, codec: str, device: torch.device) -> Tensor:
        """Ids by code on `device`, copied there once."""
        key = codec, device
        if key not in self._copies:
            self._copies[key] = self._tables[codec][0].to(device)
        return self._copies[key]

    @cached_property
    def _copies(self) -> dict[tuple[str, torch.device], Tensor]:
        return {}

    @cached_property
    def _whole(self) -> dict[str, bool]:
        """By codec: whether all of its codes have an id."""
        return {name: bool((forth >= 0).all()) for name, (forth, _, _) in self._tables.items()}

    @staticmethod
    def _found(found: Tensor, codec: str, asked: Tensor, this: str, that: str) -> Tensor:
        if bool((found < 0).any()):
            raise PromptError(f"{this} {int(asked[found < 0][0])} has no {that} of {codec}")
        return found

    @cached_property
    def _tables(self) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        """By codec: ids by code, codes by id, ids in the order of codes; -1 where there is none."""
        made = {}
        for name, codec in self.codecs.items():
            # Also where a model is built on the meta device: the tables are no weights.
            with torch.device("cpu"):
                codes, ids = (torch.tensor(each, dtype=torch.int64) for each in (codec.codes, codec.ids))
                missing = codec.missing if isinstance(codec, Table) and codec.missing is not None else -1
                forth = torch.full((int(codes.max()) + 1 if len(codes) else 0,), missing)
                back = torch.full((self.size,), -1)
                forth[codes], back[ids] = ids, codes
            made[name] = forth, back, ids
        return made


class Spelling(nn.Module):
    """Codes of pictures -> the ids that stand for them, row by row; `row_end` is written behind every row."""

    def __init__(self, vocabulary: Vocabulary, codec: str = "image", row_end: int | None = None):
        super().__init__()
        self.vocabulary, self.codec, self.row_end = vocabulary, codec, row_end

    def forward(self, codes: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        """[N, h, w] -> int64 [N, S]; a list of [h_i, w_i] -> a list of [s_i]."""
        if not isinstance(codes, Tensor):
            return [self._spell(each).flatten() for each in codes]
        return self._spell(codes).flatten(1)

    def _spell(self, codes: Tensor) -> Tensor:
        ids = self.vocabulary.from_codec(self.codec, codes, known=True)
        return ids if self.row_end is None else torch.nn.functional.pad(ids, (0, 1), value=self.row_end)

    def codes(self, ids: Tensor, height: int, width: int) -> Tensor:
        """The way back: ids int [..., S] of whole grids, row ends included -> codes [..., height, width]."""
        columns = width if self.row_end is None else width + 1
        if ids.shape[-1] != height * columns:
            raise PromptError(f"a grid of {height} x {width} has {height * columns} ids, found {ids.shape[-1]}")
        return self.vocabulary.to_codec(self.codec, ids.unflatten(-1, (height, columns))[..., :width])


def fill(ids: Tensor, tokens: Sequence[Tensor], placeholder: int) -> Tensor:
    """Write the token ids of all items, in order of appearance, at the placeholders of `ids` [B, T]; a new tensor.

    With it a picture is text for the objective too.  Raises PromptError when the numbers differ.
    """
    places = ids == placeholder
    flat = torch.cat([item.flatten() for item in tokens]) if tokens else ids.new_zeros(0)
    if int(places.sum()) != len(flat):
        raise PromptError(f"fill: {int(places.sum())} placeholders for {len(flat)} tokens of {len(tokens)} items")
    return ids.masked_scatter(places, flat.to(ids))


class NewRows(nn.Module):
    """An embedding of `base` rows and, behind them, `count` new ones in a table of their own.

    Called like an embedding; `weight` is the whole table [base + count, D], as a tied head reads it.  The base may be
    extended itself: a further modality's rows then learn apart from those of the modality before.
    """

    def __init__(self, base: nn.Embedding | NewRows, count: int):
        super().__init__()
        self.base = base
        first = base.tables()[0] if isinstance(base, NewRows) else base.weight
        self.new = nn.Embedding(count, base.embedding_dim, device=first.device, dtype=first.dtype)
        nn.init.normal_(self.new.weight, std=0.02)

    @property
    def num_embeddings(self) -> int:
        return self.base.num_embeddings + self.new.num_embeddings

    @property
    def embedding_dim(self) -> int:
        return self.new.embedding_dim

    def tables(self) -> list[Tensor]:
        """The tables in the order of their ids."""
        base = self.base.tables() if isinstance(self.base, NewRows) else [self.base.weight]
        return [*base, self.new.weight]

    @property
    def weight(self) -> Tensor:
        return torch.cat(self.tables())

    def forward(self, ids: Tensor) -> Tensor:
        """ids int [...] -> [..., D]; only the table that holds an id gets its gradient."""
        known, fresh = ids.clamp_max(self.base.num_embeddings - 1), (ids - self.base.num_embeddings).clamp_min(0)
        return torch.where((ids < self.base.num_embeddings)[..., None], self.base(known), self.new(fresh))


class NewColumns(nn.Module):
    """A head of `base` logits and, behind them, `count` new ones: [..., D] -> [..., V + count]."""

    def __init__(self, base: nn.Linear | NewColumns, count: int):
        super().__init__()
        self.base = base
        like: nn.Linear = base.linears()[-1] if isinstance(base, NewColumns) else base
        place = {"device": like.weight.device, "dtype": like.weight.dtype}
        self.new = nn.Linear(like.in_features, count, bias=like.bias is not None, **place)

    def linears(self) -> list[nn.Linear]:
        """The linears in the order of their ids."""
        return [*(self.base.linears() if isinstance(self.base, NewColumns) else [self.base]), self.new]

    def forward(self, hidden: Tensor, token_types: Tensor | None = None) -> Tensor:
        return torch.cat((self.base(hidden), self.new(hidden)), -1)


def extend(decoder: nn.Module, count: int) -> None:
    """Give a decoder (`embed_tokens`, `lm_head`) `count` new ids in tables of their own; the old rows are frozen.

    Once for each modality: the ids of one lie behind those of the one before.
    """
    embedding, head = decoder.get_submodule("embed_tokens"), getattr(decoder, "lm_head", None)
    if not isinstance(embedding, nn.Embedding | NewRows):
        raise ConfigError(f"extend: expected an embedding, found {type(embedding).__name__}")
    embedding.requires_grad_(False)
    decoder.embed_tokens = NewRows(embedding, count)
    if isinstance(head, nn.Linear | NewColumns):
        head.requires_grad_(False)
        decoder.lm_head = NewColumns(head, count)


@torch.no_grad()
def merge(decoder: nn.Module) -> None:
    """Make one embedding and one head of what `extend` has split, for export and for speed."""
    rows, head = decoder.get_submodule("embed_tokens"), getattr(decoder, "lm_head", None)
    if not isinstance(rows, NewRows):
        raise ConfigError(f"merge: expected an extended embedding, found {type(rows).__name__}")
    decoder.embed_tokens = nn.Embedding.from_pretrained(rows.weight, freeze=False)
    if isinstance(head, NewColumns):
        parts = head.linears()
        first = parts[0]
        whole = type(first)(first.in_features, sum(each.out_features for each in parts), bias=first.bias is not None)
        whole.to(first.weight).weight.copy_(torch.cat([each.weight for each in parts]))
        if whole.bias is not None:
            whole.bias.copy_(torch.cat([each.bias for each in parts]))
        decoder.lm_head = whole


def _range(x: Tensor) -> str:
    return f"{int(x.min())}..{int(x.max())}"
