"""The assembly of most systems: encoders and connectors whose features enter one language backbone.

    pixel_values [N,...] -> encoders.image -> [N,S,D'] -> connectors.image -> [N,Q,D]
                                                                                 | spliced at placeholders (type C)
    input_ids [B,T] -> backbone.embed -> [B,T,D] ----------------------------------> inputs_embeds [B,T,D]
    inputs_embeds, position_ids, mask -> backbone -> hidden [B,T,D] -> backbone.head -> logits [B,T,V]

Names are the same in every system: `encoders.image`, `connectors.image`, `backbone`; recipes train by them.
What the published processor leaves to the model (3-axis positions, routes) is added first, by
`prepare_inputs`.
Systems of type A give a `context` module instead of a placeholder; what it makes of the features goes to the
backbone's cross-attention.
Traps: no item means no encoder call; the sequence never changes its length.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from polymodal.backbones.decoder import Decoder
from polymodal.data.modalities import MODALITIES, modality_of
from polymodal.data.processor import HOST_FACTS
from polymodal.errors import ConfigError, PromptError
from polymodal.fusion.splice import splice
from polymodal.models.output import Output, total
from polymodal.models.protocols import NamesInputs
from polymodal.nn.cache import KVCache
from polymodal.nn.losses import IGNORE, shifted, token_loss, z_loss
from polymodal.nn.mask import MaskSpec, padding_mask, position_ids_from_mask
from polymodal.nn.moe import MoEConfig, RouterLogits, balance_loss
from polymodal.nn.token_types import TokenTypes

# The batch as it came -> the inputs to add: position_ids, token_types, item_counts, ...  One that takes tensors
# which no encoder and no connector takes names them (models/protocols.py: NamesInputs), and so does a context module.
InputPreparer = Callable[[Mapping[str, Any]], Mapping[str, Any]]
# Let through: targets and how they count, and what published processors say about tokens that is known from the ids.
PASSED = frozenset({"labels", "token_weights", "z_loss_weight", "dummy_modalities", "mm_token_type_ids"})
TEXT = frozenset({"input_ids", "attention_mask", "position_ids", "token_types", "segments"} | HOST_FACTS)


@dataclass(frozen=True, kw_only=True)
class ModalityInputs:
    """Which tensors of a batch one modality reads, by their names.

    values: the first argument of its encoder.  encoder, connector: further ones, given by keyword where the batch has
    them; "grid=video_grid_thw" gives the keyword another name.  uses: the modality whose encoder and connector serve
    this one as well (video through the image encoder).  placeholder_mask: a mask [B, T] of the batch that marks where
    features go, for systems whose ids do not tell.
    """

    values: str
    encoder: tuple[str, ...] = ()
    connector: tuple[str, ...] = ()
    uses: str = ""
    placeholder_mask: str = ""

    @property
    def names(self) -> frozenset[str]:
        more = (name.rpartition("=")[2] for name in (*self.encoder, *self.connector, self.placeholder_mask) if name)
        return frozenset({self.values, *more})


class MultimodalLM(nn.Module):
    """Encoders and connectors by modality (image, audio, a system's own), a backbone, and each modality's placeholder.

    A text-only model has no encoder.  context: module called as f(features by modality, batch) -> the backbone's
    `context`; modalities without a placeholder reach the backbone only that way.  inputs: by modality, where its
    tensors have other names than in `data/modalities.py` or there are more of them.  prepare_inputs: adds what a batch
    lacks.  positions_ignore_padding: a full pass without position ids counts columns, as most published classes do,
    and not real tokens (as generation always does); it matters where padding stands between pictures and text.
    Raises: ConfigError when a modality lacks an encoder or connector, or leads nowhere.
    """

    output_fields = frozenset({"logits", "hidden", "features"})

    backbone: Decoder
    context: nn.Module | None
    is_encoder_decoder = False  # an encoder reads it: nothing of it can be kept from turn to turn

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        connectors: Mapping[str, nn.Module],
        backbone: Decoder,
        placeholders: Mapping[str, int],
        context: nn.Module | None = None,
        inputs: Mapping[str, ModalityInputs] | None = None,
        prepare_inputs: InputPreparer | None = None,
        positions_ignore_padding: bool = False,
    ) -> None:
        super().__init__()
        self.inputs = {name: ModalityInputs(values=modality_of(name).values) for name in encoders} | dict(inputs or {})
        served = {name for name, given in self.inputs.items() if (given.uses or name) in encoders}
        if set(encoders) != set(connectors) or not set(placeholders) <= served or served != set(self.inputs):
            raise ConfigError(
                f"MultimodalLM: encoders {sorted(encoders)}, connectors {sorted(connectors)} and placeholders "
                f"{sorted(placeholders)} must name the same modalities"
            )
        if context is None and set(placeholders) != served:
            lost = sorted(served - set(placeholders))
            raise ConfigError(f"MultimodalLM: {lost} has neither a placeholder nor a context module")
        self.encoders = nn.ModuleDict(encoders)
        self.connectors = nn.ModuleDict(connectors)
        self.backbone = backbone
        self.context = context
        self.prepare_inputs = prepare_inputs
        self.positions_ignore_padding = positions_ignore_padding
        self.placeholders = dict(placeholders)

    @property
    def mixture(self) -> MoEConfig | None:
        """The backbone's mixture of experts, None where it has none."""
        blocks = self.backbone.config.blocks if isinstance(self.backbone, Decoder) else ()
        return next((block.mlp for block in blocks if isinstance(block.mlp, MoEConfig)), None)

    def encode(self, modality: str, batch: Mapping[str, Any]) -> Any:
        """Encode and connect one modality of a batch -> [N, Q, D] of the backbone's width, or a list of [q_i, D]."""
        if modality not in self.inputs:
            takes = ", ".join(["text", *self.inputs])
            raise PromptError(f"this model takes {takes}; found {modality}")
        given = self.inputs[modality]
        uses = given.uses or modality
        found = self.encoders[uses](batch[given.values], **_keywords(given.encoder, batch))
        return self.connectors[uses](found, **_keywords(given.connector, batch))

    def features(self, **batch: Any) -> dict[str, Any]:
        """Features of every modality that has values in the batch, as they enter the backbone."""
        return {
            name: self.encode(name, batch) for name, given in self.inputs.items() if batch.get(given.values) is not None
        }

    def written_placeholders(self) -> list[int]:
        """The placeholder ids that a head could choose: those inside the vocabulary."""
        return [id for id in self.placeholders.values() if 0 <= id < self.backbone.config.vocab_size]

    def context_for(self, features: Mapping[str, Any], batch: Mapping[str, Any]) -> Any:
        """What the backbone takes as its `context`, made once for a full pass and once before generation."""
        return None if self.context is None else self.context(features, batch)

    def prepare_batch(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with what `prepare_inputs` adds; what is there already stays.

        A mask on the host under which nothing is padded goes: here is the one place that looks (`nn/mask.py`).
        """
        given = {name: value for name, value in batch.items() if value is not None}
        if "attention_mask" in given and padding_mask(given["attention_mask"]) is None:
            del given["attention_mask"]
        return given if self.prepare_inputs is None else {**self.prepare_inputs(given), **given}

    def embed_inputs(self, batch: Mapping[str, Any], features: Mapping[str, Any] | None = None) -> Tensor:
        """inputs_embeds [B, T, D] of a batch: embedded ids with features spliced at their placeholders.

        features: modality -> [N, Q, D] or a list of [q_i, D], when they are known already (encoder cache).
        Raises: PromptError when placeholders and features differ in number.
        """
        if features is None:
            features = self.features(**batch)
        input_ids = batch["input_ids"]
        # Official placeholder ids may lie outside the vocabulary; what stands there before the splice does not matter.
        outside = [id for id in self.placeholders.values() if id not in self.written_placeholders()]
        written = input_ids.clamp(0, self.backbone.config.vocab_size - 1) if outside else input_ids
        embeds = self.backbone.embed(written)
        for name, placeholder in self.placeholders.items():
            counts, tokens = ((batch.get(key) or {}).get(name) for key in ("item_counts", "item_tokens"))
            places = batch.get(self.inputs[name].placeholder_mask)
            where = placeholder if places is None else places
            embeds = splice(embeds, input_ids, features.get(name, []), where, counts, tokens)
        return embeds

    def forward(self, *, cache: KVCache | None = None, return_logits: bool = True, **batch: Any) -> Output:
        """Logits, hidden states and features of a processor's batch, with the loss where it has `labels`.

        batch: input_ids [B, T], attention_mask, position_ids, token_types, item_counts; pixel_values, audio_values,
        video_values and what else `inputs`, `prepare_inputs` and `context` read.
        segments int [B, T]: the sequences of packed rows (`nn/segments.py`), which never see one another.
        labels [B, T]: aligned with input_ids, -100 = not learned.  token_weights [V]: how much each id counts as a
        label.  z_loss_weight: of the squared logarithm of the softmax's sum (PaLM).  dummy_modalities: names of those
        whose items stand for none (other processes have some): they pass their encoder, and count nothing.
        return_logits False: none of the whole sequence; the loss then computes them at learned positions only.
        Raises: ConfigError for a name nobody reads, PromptError when placeholders and features differ in number.
        """
        self.check_names(batch)
        batch = self.prepare_batch(batch)
        features = self.features(**batch)
        mixture = self.mixture if batch.get("labels") is not None else None
        router_logits = None if mixture is None else RouterLogits()
        hidden = self.run_backbone(batch, features, cache, router_logits)
        logits = self.compute_logits(hidden) if return_logits else None
        losses = self.losses(hidden, batch) if batch.get("labels") is not None else None
        if losses is not None and mixture is not None and router_logits:
            balance = balance_loss(router_logits, mixture.top_k, batch.get("attention_mask"))
            losses["load_balance"] = mixture.balance_weight * balance
        return Output(
            logits=logits,
            hidden=hidden,
            features=features,
            loss=None if losses is None else total(losses),
            losses=losses,
        )

    def run_backbone(
        self,
        batch: Mapping[str, Any],
        features: Mapping[str, Any],
        cache: KVCache | None,
        router_logits: RouterLogits | None = None,
    ) -> Tensor:
        """Hidden states [B, T, D] of a prepared batch with its features; router_logits: see `Decoder.forward`."""
        position_ids, mask, segments = (batch.get(key) for key in ("position_ids", "attention_mask", "segments"))
        if position_ids is None:
            counted = torch.ones_like(batch["input_ids"]) if mask is None or self.positions_ignore_padding else mask
            position_ids = position_ids_from_mask(counted, segments)
        dummies = [name for name in batch.get("dummy_modalities") or () if name in features]
        used = {name: value for name, value in features.items() if name not in dummies}
        embeds = self.embed_inputs(batch, used if self.context is None else features)
        for name in dummies:
            embeds = embeds + 0.0 * sum(item.sum() for item in features[name])
        return self.backbone(
            embeds,
            position_ids,
            MaskSpec(attention_mask=mask, segments=segments),
            token_types=token_types_of(batch),
            context=self.context_for(features, batch),
            cache=cache,
            **({} if router_logits is None else {"router_logits": router_logits}),
        )

    def losses(self, hidden: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """`language_model`, and `z_loss` where it has a weight: hidden [B, T, D] against the batch's labels."""
        labels = shifted(batch["labels"])
        learned = labels != IGNORE
        wanted, weights = labels[learned], batch.get("token_weights")
        logits = self.backbone.head(hidden[learned])
        found = {"language_model": token_loss(logits, wanted, None if weights is None else weights[wanted])}
        if weight := batch.get("z_loss_weight"):
            found["z_loss"] = weight * z_loss(logits, wanted)
        return found

    def check_names(self, values: Mapping[str, Any]) -> None:
        """Every tensor that is there must have a reader; a picture that nobody looks at is a mistake."""
        known = {name for given in self.inputs.values() for name in given.names} | PASSED | TEXT
        for part in (self.prepare_inputs, self.context):
            known |= part.input_names if isinstance(part, NamesInputs) else frozenset()
        for name, value in values.items():
            if name in known or value is None:
                continue
            for each in MODALITIES.values():
                if name == each.values:
                    raise PromptError(f"this model takes {', '.join(['text', *self.inputs])}; found {each.name}")
            raise ConfigError(f"MultimodalLM: does not know the input {name!r}; it takes {', '.join(sorted(known))}")

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] -> logits [..., V] as published inference gives them; losses use the bare head."""
        return self.backbone.head(hidden)


def _keywords(names: tuple[str, ...], batch: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments out of a batch: "name" or "keyword=name", those that are there."""
    found = {name.partition("=")[0]: batch.get(name.rpartition("=")[2]) for name in names}
    return {keyword: value for keyword, value in found.items() if value is not None}


def token_types_of(batch: Mapping[str, Any]) -> TokenTypes | None:
    """The kinds of a batch's tokens for the backbone, with how many there are of each where the processor said so."""
    kinds = batch.get("token_types")
    return None if kinds is None else TokenTypes(kinds, batch.get("token_type_counts"))
