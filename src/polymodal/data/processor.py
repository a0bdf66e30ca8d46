"""Messages and media -> the finished batch; one class for all systems, fed with declarations.

Flow: messages -> template.render -> segments -> input_ids, loss_mask, token_types (a media slot becomes
[before] + n placeholders + [after]) -> padding -> batch dict of tensors.
The number n comes from the declared `tokens` function, which systems take from their encoder and connector configs;
it is written nowhere else.  The model never changes the length of a sequence.
Traps: a sequence that is too long is refused, or cut between media, never inside one.  Cutting removes media
behind the cut together with their values, so that ids and values always agree.
"""

import hashlib
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from polymodal.data.encoded import Encoded, MediaSpan, Prepared
from polymodal.data.item_rules import check_picklable
from polymodal.data.limits import DEFAULT_LIMITS, Limits
from polymodal.data.media import Array, Media
from polymodal.data.messages import Message, are_several, conversation
from polymodal.data.modalities import KnownModality, modality_of
from polymodal.data.row_builder import Position, RowBuilder
from polymodal.data.template import Format, Segment, Slot, Special, Words, Written
from polymodal.data.tokenizer import Tokenizer, pad_id_of
from polymodal.errors import ConfigError, PromptError
from polymodal.nn.mask import position_ids_from_mask

IGNORE = -100  # label of a position without loss
HOST_FACTS = frozenset({"item_counts", "item_tokens", "token_type_counts"})
"""What a batch says about itself in numbers that stay on the host, so that no device has to be asked for them."""

# What stands around an item: the same for all, or made from its value (the size of a picture, in words).
Around = tuple[Written, ...] | Callable[[Any], Sequence[Written]]


@dataclass(frozen=True, kw_only=True)
class Modality:
    """How one modality enters the sequence; a system declares one for each kind of media it takes.

    name: image, audio, video or any other, a system's own too (`data/modalities.py`).  placeholder: special token
    repeated once per feature.  transform: one media record -> its tensor, or a table of tensors.  tokens: that value ->
    number of features the connector will give.  before, after: what stands around the placeholders.  collate: values of
    all items of a batch -> one tensor [N, ...], or the named tensors that the model takes.  layout: value ->
    token names, where the span is no plain run of placeholders (row ends, markers), or words between them; the
    placeholder's own name stands for a feature.  placeholder_id: where the published one is no token of the
    vocabulary (-200).
    ahead: tokens in front of an item see it too.
    values, token_type, media: the tensor's name, the number in `token_types` and the record that is taken, where they
    differ from the table.
    Raises ConfigError for an invalid name, and without `tokens` where the table has no rule for counting.
    """

    name: str
    placeholder: str
    transform: Callable[[Any], Any]
    tokens: Callable[[Any], int] | None = None
    before: Around = ()
    after: Around = ()
    collate: Callable[[list[Any]], Any] = torch.stack
    layout: Callable[[Any], Sequence[str | Words]] | None = None
    placeholder_id: int | None = None
    ahead: bool = False
    values: str = ""
    token_type: int | None = None
    media: type[Media] | None = None

    def __post_init__(self) -> None:
        if self.known.media is None:
            raise ConfigError(f"modality {self.name!r} is the text of messages; give media another name")
        if self.tokens is None and self.known.tokens is None:
            raise ConfigError(f"modality {self.name!r}: say with `tokens` how many tokens an item takes")

    @property
    def known(self) -> KnownModality:
        """Its row of the table; names outside it get a default row."""
        row = modality_of(self.name)
        return row if self.media is None else replace(row, media=self.media)

    @property
    def kind(self) -> int:
        """Its number in `token_types`."""
        return self.known.token_type if self.token_type is None else self.token_type

    def count(self, values: Any) -> int:
        """How many tokens the value of an item takes."""
        tokens = self.tokens or self.known.tokens
        assert tokens is not None
        return tokens(values)

    def batch(self, items: list[Any]) -> dict[str, Any]:
        """The tensors of all items of a batch by the names the model takes them under."""
        tensors = self.collate(items)
        return tensors if isinstance(tensors, dict) else {self.values or self.known.values: tensors}


Memo = MutableMapping[int, tuple[Media, Prepared]]


class Processor:
    """Messages -> batch.  See `__call__` for the tensors.

    Args: tokenizer; template; modalities, what the model takes besides text; max_length, the model's context;
    rewrite, a function applied to each conversation before it is rendered (transcribes recordings, ...); finish, one
    applied to the finished batch, for models that take tensors under other names.
    Raises: UnknownName when a placeholder is not a special token of the tokenizer (then users could type it),
    ConfigError when two modalities share a name or a placeholder.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        template: Format,
        modalities: Sequence[Modality] = (),
        max_length: int | None = None,
        rewrite: Callable[[tuple[Message, ...]], tuple[Message, ...]] | None = None,
        finish: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        if max_length is not None and (not isinstance(max_length, int) or max_length < 1):
            raise ConfigError(f"processor: max_length: expected a whole number, found {str(max_length)[:40]!r}")
        self.tokenizer = tokenizer
        self.template = template
        self.max_length = max_length
        self.rewrite = rewrite
        self.finish = finish
        self.modalities = {modality.name: modality for modality in modalities}
        self.placeholders = {
            m.name: tokenizer.special(m.placeholder) if m.placeholder_id is None else m.placeholder_id
            for m in modalities
        }
        if len(set(self.placeholders.values())) != len(modalities):
            raise ConfigError("processor: every modality needs its own name and its own placeholder token")

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled, for workers of a DataLoader.  Raises ConfigError for a function that cannot be."""
        check_picklable(self)
        return vars(self)

    def __call__(
        self,
        messages: Any,
        *,
        generate: bool = False,
        padding: Literal["left", "right"] | None = None,
        max_length: int | None = None,
        truncate: bool = False,
        files: bool = True,
        limits: Limits = DEFAULT_LIMITS,
    ) -> dict[str, Any]:
        """Batch of one conversation, or of several given as a list of lists of messages.

        generate: end each row with the words that ask for an answer, and pad on the left (else on the right).
        truncate: cut a row that is too long at its end, never inside media, instead of refusing it.
        files, limits: whether messages may name files of this machine, and the bounds of media they carry.

        Returns input_ids, attention_mask, labels, token_types, position_ids, all int64 [B, T], attention_mask None
        where nothing is padded; pixel_values, audio_values, ... [N, ...] where there are items; and what the batch
        knows about itself on the host: item_counts, modality -> int64 [B], items of each row; item_tokens, modality ->
        the placeholders of each item; token_type_counts, how many tokens there are of kind 0, 1, ...
        Raises: PromptError for messages that cannot become a sequence, MediaError for media that cannot be read.
        """
        if generate and truncate:
            raise ConfigError("processor: truncate would cut off the question; use it for training only")
        several = are_several(messages)
        rows = []
        for row, given in enumerate(messages if several else [messages]):
            encoded = self.encode(conversation(given, files=files, limits=limits), generate=generate)
            rows.append(self.fit(encoded, max_length, truncate, where=f"row {row}" if several else "messages"))
        return self.collate(rows, padding=padding or ("left" if generate else "right"))

    def encode(self, messages: Sequence[Message], *, generate: bool = False, memo: Memo | None = None) -> Encoded:
        """One typed conversation, unpadded.  memo: media records (by identity) already transformed."""
        rewritten = messages if self.rewrite is None else self.rewrite(tuple(messages))
        segments = self.template.render(rewritten, ask=generate)
        return self.encode_segments(segments, memo=memo)

    def encode_segments(self, segments: Sequence[Segment], *, memo: Memo | None = None) -> Encoded:
        """Segments -> ids and loss mask; text between special tokens is tokenised as one (`data/row_builder.py`)."""
        builder = RowBuilder(self.tokenizer)
        media = []
        for segment in segments:
            if isinstance(segment, Slot):
                media.append(self._write_media(builder, self.prepare(segment.media, memo)))
            else:
                write(builder, segment)
        builder.finish()
        return builder.row(
            [
                MediaSpan(
                    item=item,
                    first=first.index,
                    start=start.index,
                    end=end.index,
                    ahead=self.modalities[item.modality].ahead,
                )
                for item, first, start, end in media
            ]
        )

    def prepare(self, media: Media, memo: Memo | None = None) -> Prepared:
        """One item through its declared transform.  Raises PromptError for media the model does not take."""
        if memo is not None and id(media) in memo:
            return memo[id(media)][1]
        modality = self.modality_for(media)
        values = modality.transform(media)
        key = _key(modality.name, values)
        item = Prepared(modality=modality.name, values=values, tokens=modality.count(values), key=key)
        if memo is not None:
            memo[id(media)] = (media, item)  # holding the record keeps its identity from being reused
        return item

    def modality_for(self, media: Media) -> Modality:
        """What takes an item; an array of no name goes to the one modality that takes arrays.  Raises PromptError."""
        found = self.modalities.get(media.modality)
        if found is not None:
            return found
        takes = ", ".join(["text", *self.modalities])
        if media.modality:
            raise PromptError(f"messages: this model takes {takes}; found {media.modality}")
        arrays = [each for each in self.modalities.values() if each.known.media is Array]
        if len(arrays) != 1:
            raise PromptError(f"messages: this model takes {takes}; say which an array is, as in pm.array(x, 'imu')")
        return arrays[0]

    def fit(self, row: Encoded, max_length: int | None = None, truncate: bool = False, where: str = "") -> Encoded:
        """The row itself if it fits in max_length (default: the model's), else cut at its end or refused."""
        limit = self.max_length if max_length is None else max_length
        if limit is None or len(row) <= limit:
            return row
        where = where or "messages"
        found = " and ".join(f"{count} {name}" for name, count in row.counts().items())
        if not truncate:
            raise PromptError(
                f"{where}: {len(row)} tokens ({found}) for a limit of {limit}; shorten the text or send less media"
            )
        if row.segments:
            raise PromptError(f"{where}: packed rows are not cut; fit each conversation before they are packed")
        for span in row.media_spans:
            if span.start < limit < span.end:
                raise PromptError(
                    f"{where}: cutting {len(row)} tokens ({found}) to {limit} would cut the {span.item.modality} at "
                    f"tokens {span.start} to {span.end}; raise max_length or leave this sample out"
                )
        return Encoded(
            input_ids=row.input_ids[:limit],
            loss_mask=row.loss_mask[:limit],
            token_types=row.token_types[:limit],
            media_spans=tuple(span for span in row.media_spans if span.end <= limit),
        )

    def collate(
        self,
        rows: Sequence[Encoded],
        *,
        padding: Literal["left", "right"],
        dummies: Mapping[str, Any] = MappingProxyType({}),
    ) -> dict[str, Any]:
        """Rows of any lengths -> batch dict as described at `__call__`; labels and media included.

        With packed rows among them `segments` int64 [B, T] too: 1, 2, ... in each row, 0 for padding.
        dummies: modality -> the value that stands in for it where no row has an item (`data/dummy_items.py`);
        `dummy_modalities` names those that were used.
        """
        length = max(len(row) for row in rows)
        padded = any(len(row) < length for row in rows)
        pad = pad_id_of(self.tokenizer) if padded else 0

        def table(values: Sequence[list[int]], fill: int) -> Tensor:
            out = torch.full((len(rows), length), fill, dtype=torch.int64)
            for row, given in enumerate(values):
                start = length - len(given) if padding == "left" else 0
                out[row, start : start + len(given)] = torch.tensor(given, dtype=torch.int64)
            return out

        mask = table([[1] * len(row) for row in rows], 0)
        batch: dict[str, Any] = {
            "input_ids": table([row.input_ids for row in rows], pad),
            "attention_mask": mask if padded else None,
            "labels": table([_labels(row) for row in rows], IGNORE),
            "token_types": table([row.token_types for row in rows], 0),
            "position_ids": position_ids_from_mask(mask),
            "item_counts": {},
            "item_tokens": {},
        }
        batch["token_type_counts"] = kind_counts(batch["token_types"])
        if any(row.segments for row in rows):
            batch["segments"] = table([_numbered(row) for row in rows], 0)
            batch["position_ids"] = position_ids_from_mask(mask, batch["segments"])
        for name, modality in self.modalities.items():
            items = [[p.item for p in row.media_spans if p.item.modality == name] for row in rows]
            flat = [item for found in items for item in found]
            batch["item_counts"][name] = torch.tensor([len(found) for found in items], dtype=torch.int64)
            batch["item_tokens"][name] = tuple(item.tokens for item in flat)
            if flat:
                batch.update(modality.batch([item.values for item in flat]))
            elif name in dummies:
                batch.update(modality.batch([dummies[name]]))
                batch["dummy_modalities"] = (*batch.get("dummy_modalities", ()), name)
        return batch if self.finish is None else self.finish(batch)

    def _write_media(self, builder: RowBuilder, item: Prepared) -> tuple[Prepared, Position, Position, Position]:
        """The item with its first placeholder, and where its span starts and ends."""
        modality = self.modalities[item.modality]
        start = builder.position()
        for segment in _around(modality.before, item.values):
            write(builder, segment)
        strips = (False, False)
        if modality.placeholder_id is None:
            strips = self.tokenizer.strips(modality.placeholder)
        first = builder.position(after=True)
        if modality.layout is None:
            ids = [self.placeholders[item.modality]] * item.tokens
            builder.ids(ids, token_type=modality.kind, strips=strips)
        else:
            for names in _runs(modality.layout(item.values)):
                if isinstance(names, Words):
                    write(builder, names)
                else:
                    ids = [self.tokenizer.special(name) for name in names]
                    builder.ids(ids, token_type=modality.kind, strips=strips)
        for segment in _around(modality.after, item.values):
            write(builder, segment)
        return item, first, start, builder.position(after=True)


def write(builder: RowBuilder, segment: Written) -> None:
    """A segment that is no media."""
    if isinstance(segment, Words):
        builder.words(segment.text, segment.loss_mask)
    elif isinstance(segment, Special):
        builder.special(segment.name, segment.loss_mask, segment.token_type)
    else:
        builder.text_start()


def _around(around: Around, values: Any) -> Sequence[Written]:
    return around(values) if callable(around) else around


def _runs(layout: Sequence[str | Words]) -> list[list[str] | Words]:
    """Token names that stand side by side in one list each."""
    runs: list[list[str] | Words] = []
    for each in layout:
        if isinstance(each, Words):
            runs.append(each)
        elif runs and isinstance(runs[-1], list):
            runs[-1].append(each)
        else:
            runs.append([each])
    return runs


def _labels(row: Encoded) -> list[int]:
    return [index if loss_mask else IGNORE for index, loss_mask in zip(row.input_ids, row.loss_mask, strict=True)]


def kind_counts(token_types: Tensor) -> tuple[int, ...]:
    """How many tokens of kind 0, 1, ... there are in `token_types [B, T]` on the host, padding included."""
    return tuple(torch.bincount(token_types.flatten()).tolist())


def _numbered(row: Encoded) -> list[int]:
    """1, 2, ... for the tokens of each conversation in the row."""
    lengths = row.segments or (len(row),)
    return [number for number, length in enumerate(lengths, 1) for _ in range(length)]


def _key(name: str, values: Any) -> str:
    """Identity of what the encoder will see: equal keys give equal features, whatever file they came from."""
    table = values if isinstance(values, dict) else {"": values}
    digest = hashlib.sha256(name.encode())
    for label, each in table.items():
        tensor = torch.as_tensor(each)
        digest.update(f" {label} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
