"""Any modalities from any others by one masked encoder-decoder (4M, arXiv 2312.06647; 4M-21, arXiv 2406.09406).

    `<name>.tensor` of each modality -> values + places, those that are given, of all modalities in one row
        -> encoder -> norm -> linear + the same places ----------------------------------- context
    grid: mask vector + places of what is asked;  sequence: ids so far + places -> decoder -> norm -> ids of each

A batch holds, by modality: `<name>.tensor`; `<name>.input_mask` and `<name>.target_mask` bool [B, L], True where a
token is NOT given or NOT asked for.  Without masks all of it is given and nothing is asked for.
What is written of a grid is said at once; of a sequence one by one.  Modalities do not see each other in the decoder.
Traps: a sequence holds what is given and what is asked for side by side, and places count each from 0; its logits say
the NEXT token; the mask's sense is the published one, opposite to `attention_mask`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from polymodal.encoders.modality_embeddings import InputEmbedding, ModalityConfig, TargetEmbedding, checked_ids
from polymodal.errors import ConfigError, PromptError
from polymodal.fusion.source_block import SourceBlockConfig
from polymodal.models.output import Output
from polymodal.nn.block import PreNormBlockConfig
from polymodal.nn.cache import KVCache
from polymodal.nn.mask import MaskSpec
from polymodal.nn.norm import NormConfig

FIELDS = ("tensor", "input_mask", "target_mask")
COUNTS = ("num_encoder_tokens", "num_decoder_tokens")


@dataclass(frozen=True, kw_only=True)
class MaskedModalitiesConfig:
    """inputs, outputs: modalities that are read and written, by name.  registers: learned vectors in front of what is
    read.  causal: the decoder sees nothing later.  apart: modalities do not see each other in the decoder.  shared:
    reader and writer have one vector of a modality."""

    width: int
    inputs: Mapping[str, ModalityConfig]
    outputs: Mapping[str, ModalityConfig]
    encoder: tuple[PreNormBlockConfig, ...]
    decoder: tuple[SourceBlockConfig, ...]
    norm: NormConfig
    registers: int = 0
    causal: bool = False
    apart: bool = True
    shared: bool = True

    def build(self) -> MaskedModalities:
        return MaskedModalities(self)


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """Tokens of all modalities in one row: values and places [B, N, D], real [B, N], and where they came from.

    names: the modalities in order.  owner, index [B, N]: which of them a token is of, and its place there.
    ids [B, N]: what is to be said (of a sequence the next token).
    """

    names: tuple[str, ...]
    values: Tensor
    places: Tensor
    real: Tensor
    owner: Tensor
    index: Tensor
    ids: Tensor | None = None


class MaskedModalities(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"hidden", "features", "predictions"})

    def __init__(self, config: MaskedModalitiesConfig):
        super().__init__()
        if strange := [name for name, each in config.outputs.items() if not each.writes]:
            raise ConfigError(f"masked modalities: {strange[0]} has no ids and cannot be written")
        self.config = config
        width = config.width
        self.inputs = nn.ModuleDict({name: InputEmbedding(each, width) for name, each in config.inputs.items()})
        self.outputs = nn.ModuleDict({name: TargetEmbedding(each, width) for name, each in config.outputs.items()})
        # Modality vectors of what is only written, or of both where they are not shared.
        own = [name for name in config.outputs if not (config.shared and name in config.inputs)]
        self.output_modalities = nn.ParameterDict({name: torch.randn(1, 1, width) * 0.02 for name in own})
        self.encoder = nn.ModuleList(block.build() for block in config.encoder)
        self.encoder_norm = config.norm.build(width)
        self.context_proj = nn.Linear(width, width)
        self.decoder = nn.ModuleList(block.build() for block in config.decoder)
        self.decoder_norm = config.norm.build(width)
        self.mask_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.registers = nn.Parameter(torch.randn(1, config.registers, width) * 0.02) if config.registers else None

    def modality(self, name: str) -> ModalityConfig:
        """Raises PromptError for a modality that the model has not."""
        found = self.config.inputs.get(name) or self.config.outputs.get(name)
        if found is None:
            known = ", ".join({**self.config.inputs, **self.config.outputs})
            raise PromptError(f"the model has no modality {name!r}; it has {known}")
        return found

    def modality_vector(self, name: str) -> Tensor:
        """What is added to every place of a modality that is written [1, 1, D]."""
        if name in self.output_modalities:
            return self.output_modalities[name]
        reader = self.inputs[name]
        assert isinstance(reader, InputEmbedding)
        return reader.modality

    def split(self, batch: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
        """By modality: tensor, and bool [B, L] `given` and `asked`.  Raises PromptError for what fits none."""
        found: dict[str, dict[str, Tensor]] = {}
        for key, value in batch.items():
            name, _, part = key.rpartition(".")
            if value is None or key in COUNTS:
                continue
            if part not in FIELDS:
                raise PromptError(f"the batch has {key!r}; expected <modality>.{', <modality>.'.join(FIELDS)}")
            self.modality(name)
            found.setdefault(name, {})[part] = value
        if not found:
            raise PromptError("the batch has no modality; expected <modality>.tensor of one at least")
        return {name: self._with_masks(name, parts) for name, parts in found.items()}

    def _with_masks(self, name: str, parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
        config = self.modality(name)
        if "tensor" not in parts:
            raise PromptError(f"the batch has masks of {name} and no {name}.tensor")
        given = parts["tensor"]
        length = given.shape[1] if config.is_sequence else config.places
        shape = (given.shape[0], length)
        for part in ("input_mask", "target_mask"):
            if part in parts and tuple(parts[part].shape) != shape:
                raise PromptError(f"{name}.{part}: expected {list(shape)}, found {list(parts[part].shape)}")
        all_of_it = torch.zeros(shape, dtype=torch.bool, device=given.device)
        return {
            "tensor": given,
            "given": ~parts.get("input_mask", all_of_it).bool(),
            "asked": ~parts.get("target_mask", ~all_of_it).bool(),
        }

    def pack_inputs(self, parts: Mapping[str, Mapping[str, Tensor]], count: int | None = None) -> Packed:
        """What is given, in one row.  count: how many tokens are kept, by default as many as any row has."""
        names = tuple(name for name in parts if name in self.inputs)
        pieces = []
        for name in names:
            reader, part = self.inputs[name], parts[name]
            assert isinstance(reader, InputEmbedding)
            values = reader.values(part["tensor"], name)
            pieces.append((values, reader(part["given"]) + reader.modality, part["given"], None))
        if not pieces:
            raise PromptError(f"nothing of the batch can be read; the model reads {', '.join(self.inputs)}")
        return _packed(names, pieces, count)

    def pack_targets(self, parts: Mapping[str, Mapping[str, Tensor]], count: int | None = None) -> Packed | None:
        """What is asked for, in one row; None where nothing can be written of the batch."""
        names = tuple(name for name in parts if name in self.outputs)
        pieces = []
        for name in names:
            writer, part = self.writer(name), parts[name]
            ids = checked_ids(part["tensor"], writer.config, name)
            asked, said = part["asked"], ids
            places = writer(asked) + self.modality_vector(name)
            values = self.mask_token.expand(*ids.shape, -1)
            if writer.config.is_sequence:  # a token is asked for at the one before it
                values, said = writer.tokens(ids), ids.roll(-1, 1)
                asked = asked & F.pad(asked[:, 1:], (0, 1))
            pieces.append((values, places, asked, said))
        return _packed(names, pieces, count) if pieces else None

    def read(self, packed: Packed) -> tuple[Tensor, Tensor]:
        """-> context [B, R + N, D] and which of it is real [B, R + N]."""
        values, places, real = packed.values, packed.places, packed.real
        if self.registers is not None:
            rows = self.registers.expand(len(values), -1, -1)
            values, places = torch.cat((rows, values), 1), torch.cat((torch.zeros_like(rows), places), 1)
            real = torch.cat((real.new_ones(rows.shape[:2]), real), 1)
        x = values + places
        mask = MaskSpec(causal=False, attention_mask=real).prepare(x.shape[1], x.shape[1], x.device)
        for block in self.encoder:
            x = block(x, mask)
        return self.context_proj(self.encoder_norm(x)) + places, real

    def write(
        self, x: Tensor, context: Tensor, real: Tensor, visible: Tensor | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """x [B, M, D] -> hidden [B, M, D].  visible [B, M, M]: who sees whom, None: all of each other.

        cache: of the tokens before, which x sees; written in place and advanced by M.
        """
        mask = None if visible is None else MaskSpec(causal=False, visible=visible).prepare(
            x.shape[1], x.shape[1], x.device)  # fmt: skip
        source = MaskSpec(causal=False, attention_mask=real).prepare(x.shape[1], real.shape[1], x.device)
        for number, block in enumerate(self.decoder):
            x = block(x, context, mask, source, None if cache is None else cache.layer(number))
        if cache is not None:
            cache.advance(x.shape[1])
        return self.decoder_norm(x)

    def new_cache(self, rows: int, capacity: int) -> KVCache:
        """An empty cache of the decoder."""
        attention, weight = self.config.decoder[0].attention, self.mask_token
        return KVCache.allocate(
            layers=len(self.decoder), batch=rows, kv_heads=attention.key_heads, head_dim=attention.size,
            capacity=capacity, dtype=weight.dtype, device=weight.device,
        )  # fmt: skip

    def visible(self, packed: Packed) -> Tensor:
        """Who sees whom of what is asked for, bool [B, M, M]."""
        count = packed.owner.shape[1]
        place = torch.arange(count, device=packed.owner.device)
        last = place.expand_as(packed.owner)
        if not self.config.causal:  # tokens of a grid see all of it
            for number, name in enumerate(packed.names):
                mine = (packed.owner == number) & packed.real
                if not self.config.outputs[name].is_sequence:
                    end = torch.where(mine, place, -1).amax(1, keepdim=True)
                    last = torch.where(mine, end, last)
        seen = place[None, None] <= last[..., None]
        if self.config.apart:
            seen = seen & (packed.owner[:, None] == packed.owner[..., None])
        return seen & packed.real[:, None]

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """What the decoder reads [B, N, D], under "context", tokens that are given first."""
        packed = self.pack_inputs(self.split(batch), batch.get("num_encoder_tokens"))
        return {"context": self.read(packed)[0]}

    def forward(
        self, *, num_encoder_tokens: int | None = None, num_decoder_tokens: int | None = None,
        return_loss: bool = False, **batch: Any,
    ) -> Output:  # fmt: skip
        """predictions: by modality logits [B, L, V] at the tokens that are asked for, zero elsewhere; of a sequence
        they say the next token.  hidden: the decoder's, tokens that are asked for first.

        num_encoder_tokens, num_decoder_tokens: how many are kept, by default as many as any row has.
        return_loss: cross entropy of each modality, each counting the same, in place of predictions.
        """
        parts = self.split(batch)
        context, real = self.read(self.pack_inputs(parts, num_encoder_tokens))
        packed = self.pack_targets(parts, num_decoder_tokens)
        if packed is None:
            raise PromptError(f"nothing is asked for; the model writes {', '.join(self.outputs)}")
        hidden = self.write(packed.values + packed.places, context, real, self.visible(packed))
        if return_loss:
            losses = self._losses(hidden, packed)
            return Output(hidden=hidden, losses=losses, loss=torch.stack(list(losses.values())).sum())
        return Output(hidden=hidden, predictions=self._logits(hidden, packed, parts))

    def _logits(self, hidden: Tensor, packed: Packed, parts: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        found = {}
        for number, name in enumerate(packed.names):
            head = self.head(name)
            length, rows = parts[name]["asked"].shape[1], torch.arange(len(hidden), device=hidden.device)[:, None]
            mine = (packed.owner == number) & packed.real
            logits = hidden.new_zeros(len(hidden), length, self.config.outputs[name].vocab_size)
            logits[rows.expand_as(mine)[mine], packed.index[mine]] = head(hidden[mine])
            found[name] = logits
        return found

    def writer(self, name: str) -> TargetEmbedding:
        """The tables of a modality that is written.  Raises PromptError for one that is not."""
        if name not in self.config.outputs:
            raise PromptError(f"the model does not write {name!r}; it writes {', '.join(self.config.outputs)}")
        found = self.outputs[name]
        assert isinstance(found, TargetEmbedding)
        return found

    def head(self, name: str) -> nn.Linear:
        """Hidden states -> logits of a modality."""
        return self.writer(name).head

    def _losses(self, hidden: Tensor, packed: Packed) -> dict[str, Tensor]:
        """Of each modality its mean, divided by their number; of one of which nothing is asked, zero."""
        assert packed.ids is not None
        found = {}
        for number, name in enumerate(packed.names):
            mine = (packed.owner == number) & packed.real
            logits, ids = self.head(name)(hidden[mine]), packed.ids[mine]
            loss = F.cross_entropy(logits.float(), ids, reduction="sum") / max(1, len(ids))
            found[name] = loss / len(packed.names)
        return found


def _packed(names: tuple[str, ...], pieces: list[Any], count: int | None) -> Packed:
    """Tokens that are wanted first, in order; the rest is cut off or zero."""
    values = torch.cat([each[0] for each in pieces], 1)
    places = torch.cat([each[1].expand_as(each[0]) for each in pieces], 1)
    wanted = torch.cat([each[2] for each in pieces], 1)
    lengths = [each[2].shape[1] for each in pieces]
    owner = torch.cat([torch.full((n,), number) for number, n in enumerate(lengths)]).to(wanted.device)
    index = torch.cat([torch.arange(n) for n in lengths]).to(wanted.device)
    kept = int(wanted.sum(1).max()) if count is None else count
    order = (~wanted).long().argsort(dim=1, stable=True)[:, : max(1, kept)]
    real = wanted.gather(1, order)
    wide = order[..., None].expand(-1, -1, values.shape[2])
    ids = None if pieces[0][3] is None else torch.cat([each[3] for each in pieces], 1).gather(1, order)
    return Packed(
        names=names, values=values.gather(1, wide) * real[..., None], places=places.gather(1, wide) * real[..., None],
        real=real, owner=owner[order], index=index[order], ids=ids,
    )  # fmt: skip
