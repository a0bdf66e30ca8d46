"""The model of most systems: encoders and connectors whose features enter one language backbone.

    pixel_values [N,...] -> encoders.image -> [N,S,D'] -> connectors.image -> [N,Q,D]
                                                                                 | spliced at placeholders (type C)
    input_ids [B,T] -> backbone.embed -> [B,T,D] ----------------------------------> inputs_embeds [B,T,D]
    inputs_embeds, position_ids, mask -> backbone -> hidden [B,T,D] -> backbone.head -> logits [B,T,V]

Names are the same in every system: `encoders.image`, `connectors.image`, `backbone`; recipes select parameters by them.
`prepare_inputs` first adds what the published processor leaves to the model (3-axis positions, routes).
Systems of type A have a `context` module instead of a placeholder; it computes the context of the backbone's
cross-attention from the features.
Traps: without items the encoder is not called; the sequence length never changes.
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
from polymodal.fusion.splice import checked_placeholders, splice
from polymodal.models.output import Output, total_loss
from polymodal.models.protocols import NamesInputs, RewritesInputs
from polymodal.nn.cache import KVCache
from polymodal.nn.losses import IGNORE, shifted, token_loss, z_loss
from polymodal.nn.mask import MaskSpec, padding_mask, position_ids_from_mask
from polymodal.nn.moe import MoEConfig, RouterLogits
from polymodal.nn.token_types import TokenTypes

# The batch -> inputs to add: position_ids, token_types, item_counts, ...  A preparer or context module that uses
# tensors that no encoder and no connector uses lists them in `input_names` (models/protocols.py: NamesInputs).
InputPreparer = Callable[[Mapping[str, Any]], Mapping[str, Any]]
# Also accepted: targets with their weights, and token types of published processors, which the ids imply.
OTHER_INPUTS = frozenset({"labels", "token_weights", "z_loss_weight", "dummy_modalities", "mm_token_type_ids"})
TEXT_INPUTS = frozenset({"input_ids", "attention_mask", "position_ids", "token_types", "segments"} | HOST_FACTS)


@dataclass(frozen=True, kw_only=True)
class ModalityInputs:
    """Names of the batch tensors that belong to a modality.

    values: the first argument of its encoder.  encoder, connector: further arguments, passed by keyword if the batch
    has them; "grid=video_grid_thw" passes video_grid_thw as grid.  uses: the modality whose encoder and connector this
    one shares (video uses the image encoder).  placeholder_mask: a mask [B, T] of the batch for the positions of
    features, for systems that do not mark them by an id.
    """

    values: str
    encoder: tuple[str, ...] = ()
    connector: tuple[str, ...] = ()
    uses: str = ""
    placeholder_mask: str = ""

    @property
    def names(self) -> frozenset[str]:
        """All tensor names."""
        more = (name.rpartition("=")[2] for name in (*self.encoder, *self.connector, self.placeholder_mask) if name)
        return frozenset({self.values, *more})


class MultimodalLM(nn.Module):
    """Encoders and connectors by modality (image, audio, a system's own), a backbone, and placeholder ids by modality.

    A text-only model has no encoder.  context: module called as f(features by modality, batch) -> the backbone's
    `context`; modalities without a placeholder reach the backbone only through it.  inputs: by modality, for tensors
    that differ from those in `data/modalities.py`.  prepare_inputs: adds missing inputs to a batch.
    positions_ignore_padding: without position_ids, a full forward counts columns, as most published classes do, instead
    of real tokens (as generation always does); this differs if there is padding between images and text.
    Raises ConfigError if a modality has no encoder or connector, or neither a placeholder nor a context module.
    """

    output_fields = frozenset({"logits", "hidden", "features"})

    backbone: Decoder
    context: nn.Module | None
    is_encoder_decoder = False  # if True, the prompt is encoded as a whole and no cache is kept between turns

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
        encoded = {name for name, inputs in self.inputs.items() if (inputs.uses or name) in encoders}
        if set(encoders) != set(connectors) or not set(placeholders) <= encoded or encoded != set(self.inputs):
            raise ConfigError(
                f"MultimodalLM: encoders {sorted(encoders)}, connectors {sorted(connectors)} and placeholders "
                f"{sorted(placeholders)} must name the same modalities"
            )
        if context is None and set(placeholders) != encoded:
            unused = sorted(encoded - set(placeholders))
            raise ConfigError(f"MultimodalLM: {unused} has neither a placeholder nor a context module")
        self.encoders = nn.ModuleDict(encoders)
        self.connectors = nn.ModuleDict(connectors)
        self.backbone = backbone
        self.context = context
        self.prepare_inputs = prepare_inputs
        self.positions_ignore_padding = positions_ignore_padding
        self.placeholders = checked_placeholders(placeholders)

    @property
    def moe(self) -> MoEConfig | None:
        """Config of the backbone's mixture of experts, None without one."""
        blocks = self.backbone.config.blocks if isinstance(self.backbone, Decoder) else ()
        return next((block.mlp for block in blocks if isinstance(block.mlp, MoEConfig)), None)

    def encode(self, modality: str, batch: Mapping[str, Any]) -> Any:
        """Encoder and connector of one modality -> [N, Q, D] with the backbone's width, or a list of [q_i, D]."""
        encoded, inputs = self.encoded(modality, batch), self.inputs[modality]
        return self.connectors[inputs.uses or modality](encoded, **_keywords(inputs.connector, batch))

    def encoded(self, modality: str, batch: Mapping[str, Any]) -> Any:
        """What the encoder of one modality says, for its connector."""
        if modality not in self.inputs:
            takes = ", ".join(["text", *self.inputs])
            raise PromptError(f"this model takes {takes}; found {modality}")
        inputs = self.inputs[modality]
        return self.encoders[inputs.uses or modality](batch[inputs.values], **_keywords(inputs.encoder, batch))

    def features(self, **batch: Any) -> dict[str, Any]:
        """Features of every modality in the batch, as inputs of the backbone."""
        present = [name for name, inputs in self.inputs.items() if batch.get(inputs.values) is not None]
        return {name: self.encode(name, batch) for name in present}

    def placeholders_in_vocabulary(self) -> list[int]:
        """Placeholder ids inside the vocabulary, which the head could predict."""
        return [id for id in self.placeholders.values() if 0 <= id < self.backbone.config.vocab_size]

    def context_for(self, features: Mapping[str, Any], batch: Mapping[str, Any]) -> Any:
        """The backbone's `context`; computed once per full forward and once before generation."""
        return None if self.context is None else self.context(features, batch)

    def prepare_batch(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with the inputs that `prepare_inputs` adds; existing inputs are kept.

        Drops an attention mask on the host without any padding; this is the only place that checks (`nn/mask.py`).
        """
        inputs = {name: value for name, value in batch.items() if value is not None}
        if "attention_mask" in inputs and padding_mask(inputs["attention_mask"]) is None:
            del inputs["attention_mask"]
        if self.prepare_inputs is None:
            return inputs
        inputs = {**self.prepare_inputs(inputs), **inputs}
        return self.prepare_inputs.rewrite(inputs) if isinstance(self.prepare_inputs, RewritesInputs) else inputs

    def embed_inputs(self, batch: Mapping[str, Any], features: Mapping[str, Any] | None = None) -> Tensor:
        """inputs_embeds [B, T, D]: token embeddings with features spliced in at their placeholders.

        features: modality -> [N, Q, D] or a list of [q_i, D], if already computed (encoder cache).
        Raises PromptError if the numbers of placeholders and features differ.
        """
        if features is None:
            features = self.features(**batch)
        features, dummies = split_dummies(features, batch)
        input_ids = batch["input_ids"]
        # Official placeholder ids may be outside the vocabulary; their embedding before the splice does not matter.
        outside = [id for id in self.placeholders.values() if id not in self.placeholders_in_vocabulary()]
        valid_ids = input_ids.clamp(0, self.backbone.config.vocab_size - 1) if outside else input_ids
        embeds = self.backbone.embed(valid_ids)
        for name, placeholder in self.placeholders.items():
            counts, tokens = ((batch.get(key) or {}).get(name) for key in ("item_counts", "item_tokens"))
            mask = batch.get(self.inputs[name].placeholder_mask)
            where = placeholder if mask is None else mask
            embeds = splice(embeds, input_ids, features.get(name, []), where, counts, tokens)
        for items in dummies.values():
            embeds = embeds + 0.0 * sum(item.sum() for item in items)
        return embeds

    def forward(self, *, cache: KVCache | None = None, return_logits: bool = True, **batch: Any) -> Output:
        """Logits, hidden states and features of a processor's batch; with `labels`, the loss.

        batch: input_ids [B, T], attention_mask, position_ids, token_types, item_counts; pixel_values, audio_values,
        video_values and all other tensors of `inputs`, `prepare_inputs` and `context`.
        segments int [B, T]: sequence numbers in packed rows (`nn/segments.py`); sequences do not attend to each other.
        labels [B, T]: aligned with input_ids, -100 = ignored.  token_weights [V]: loss weight of each id.
        z_loss_weight: weight of the squared log of the softmax normaliser (PaLM).  dummy_modalities: modalities with
        dummy items (because other processes have items): they are encoded, but do not affect the result.
        return_logits False: no logits; the loss computes them only where there are labels.
        Raises ConfigError for an unknown input, PromptError if the numbers of placeholders and features differ.
        """
        self.check_names(batch)
        batch = self.prepare_batch(batch)
        features = self.features(**batch)
        moe = self.moe if batch.get("labels") is not None else None
        router_logits = None if moe is None else RouterLogits()
        hidden = self.run_backbone(batch, features, cache, router_logits)
        logits = self.compute_logits(hidden) if return_logits else None
        losses = self.losses(hidden, batch) if batch.get("labels") is not None else None
        if losses is not None and moe is not None and router_logits:
            losses["load_balance"] = moe.balance(router_logits, batch.get("attention_mask"))
        return Output(
            logits=logits,
            hidden=hidden,
            features=features,
            loss=None if losses is None else total_loss(losses),
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
            real = torch.ones_like(batch["input_ids"]) if mask is None or self.positions_ignore_padding else mask
            position_ids = position_ids_from_mask(real, segments)
        return self.backbone(
            self.embed_inputs(batch, features),
            position_ids,
            MaskSpec(attention_mask=mask, segments=segments),
            token_types=token_types_of(batch),
            context=self.context_for(features, batch),
            cache=cache,
            **({} if router_logits is None else {"router_logits": router_logits}),
        )

    def losses(self, hidden: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """`language_model`, and `z_loss` if it has a weight, from hidden [B, T, D] and the batch's labels."""
        labels = shifted(batch["labels"])
        valid = labels != IGNORE
        targets, weights = labels[valid], batch.get("token_weights")
        logits = self.backbone.head(hidden[valid])
        losses = {"language_model": token_loss(logits, targets, None if weights is None else weights[targets])}
        if weight := batch.get("z_loss_weight"):
            losses["z_loss"] = weight * z_loss(logits, targets)
        return losses

    def check_names(self, values: Mapping[str, Any]) -> None:
        """Raises ConfigError for an unknown input, PromptError for a modality that the model does not take."""
        known = {name for inputs in self.inputs.values() for name in inputs.names} | OTHER_INPUTS | TEXT_INPUTS
        for part in (self.prepare_inputs, self.context):
            known |= part.input_names if isinstance(part, NamesInputs) else frozenset()
        for name, value in values.items():
            if name in known or value is None:
                continue
            for modality in MODALITIES.values():
                if name == modality.values:
                    raise PromptError(f"this model takes {', '.join(['text', *self.inputs])}; found {modality.name}")
            raise ConfigError(f"MultimodalLM: does not know the input {name!r}; it takes {', '.join(sorted(known))}")

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., D] -> logits [..., V] as in published inference; losses use the unmodified head."""
        return self.backbone.head(hidden)


def split_dummies(features: Mapping[str, Any], batch: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Features of real items and of the batch's dummy items, by modality."""
    dummies = {name: features[name] for name in batch.get("dummy_modalities") or () if name in features}
    return {name: items for name, items in features.items() if name not in dummies}, dummies


def _keywords(names: tuple[str, ...], batch: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments from a batch, for names "name" or "keyword=name" that it has."""
    arguments = {name.partition("=")[0]: batch.get(name.rpartition("=")[2]) for name in names}
    return {keyword: value for keyword, value in arguments.items() if value is not None}


def token_types_of(batch: Mapping[str, Any]) -> TokenTypes | None:
    """Token types of a batch for the backbone, with the number of tokens of each type if the processor counted them."""
    token_types = batch.get("token_types")
    return None if token_types is None else TokenTypes(token_types, batch.get("token_type_counts"))
