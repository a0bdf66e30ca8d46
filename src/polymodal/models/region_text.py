"""A text and the regions of a picture, read together: one stream of both, or two that exchange what they know.

    input_ids -> text embeddings [B, T, D] ---------------------------+
    visual_feats [B, R, F], visual_pos [B, R, P] -> regions [B, R, D'] -+-> blocks -> states of both -> pooled -> heads
one stream     text blocks over [text; regions]                      UNITER (arXiv 1909.11740)
two streams    own blocks, `exchanges` where the schedule says       ViLBERT (1908.02265), LXMERT (1908.07490)
Heads by name read the text's states, the regions' or the pooled vector; `predictions` gives all of them, `logits` the
main one, class logits or a score.
Traps: inputs have the library's names (LxmertModel); regions are features, a detector makes them; a score of a padded
region is 10,000 lower.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from polymodal.backbones.encoder import TextBlockConfig, TextEncoderConfig, TokenHead
from polymodal.encoders.region_heads import FeatureRegression
from polymodal.encoders.regions import RegionEmbeddingConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.fusion.exchange import ExchangeConfig
from polymodal.models.output import Output
from polymodal.nn.activation import activation
from polymodal.nn.losses import classification_loss
from polymodal.nn.mask import MaskSpec, PreparedMask, padding_mask

_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "visual_feats", "visual_pos", "visual_attention_mask",
           "masked_regions")  # fmt: skip
FAR = 10_000.0


class HeadConfig(Protocol):
    """Config of one head: `build()` returns a module called as `f(states)`, or a TokenHead."""

    def build(self) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class Head:
    """What one head reads.  score: one number a region, lowered where a region is padding."""

    reads: Literal["text", "image", "pooled"]
    module: HeadConfig
    score: bool = False


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """First tokens -> dense -> activation; image_width: of the picture's first token too, the two are joined."""

    width: int
    activation: str = "tanh"
    image_width: int | None = None
    join: Literal["mul", "sum"] = "mul"


@dataclass(frozen=True, kw_only=True)
class TwoStreams:
    """image: blocks of the picture's stream.  exchanges, and before each of them how many blocks of the text and of the
    picture have been passed; the rest follow the last."""

    image: tuple[TextBlockConfig, ...]
    exchanges: tuple[ExchangeConfig, ...]
    before: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        if len(self.before) != len(self.exchanges):
            raise ConfigError(f"two streams: {len(self.exchanges)} exchanges at {len(self.before)} places")
        if any(now[i] > then[i] for now, then in zip(self.before, self.before[1:], strict=False) for i in (0, 1)):
            raise ConfigError(f"two streams: places of the exchanges must not go back, found {self.before}")


@dataclass(frozen=True, kw_only=True)
class RegionTextConfig:
    """streams None: one stream.  main: the head whose output is `logits`.  pool None: no pooled vector."""

    text: TextEncoderConfig
    regions: RegionEmbeddingConfig
    pool: PoolConfig | None
    streams: TwoStreams | None = None
    heads: Mapping[str, Head] = field(default_factory=dict)
    main: str | None = None

    def build(self) -> "RegionText":
        return RegionText(self)


class RegionText(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"logits", "hidden", "features", "predictions"})

    def __init__(self, config: RegionTextConfig):
        super().__init__()
        self.config = config
        streams, pool = config.streams, config.pool
        self.text = config.text.build()
        self.regions = config.regions.build()
        self.image_blocks = nn.ModuleList(block.build() for block in (streams.image if streams else ()))
        self.exchanges = nn.ModuleList(each.build() for each in (streams.exchanges if streams else ()))
        self.text_pool = None if pool is None else nn.Linear(config.text.width, pool.width)
        both = pool is not None and pool.image_width is not None
        self.image_pool = nn.Linear(pool.image_width, pool.width) if both else None  # type: ignore[union-attr, arg-type]
        self.heads = nn.ModuleDict({name: head.module.build() for name, head in config.heads.items()})
        self.act = activation("linear" if pool is None else pool.activation)

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """What enters the blocks: `text [B, T, D]`, `image [B, R, D']`."""
        inputs = _check_inputs(batch)
        return {"text": self._text(inputs), "image": self._regions(inputs)}

    def encode(self, **batch: Any) -> tuple[Tensor, Tensor]:
        """States after the last block: of the text [B, T, D] and of the regions [B, R, D']."""
        inputs = _check_inputs(batch)
        return self._run(self._text(inputs), self._regions(inputs), inputs)

    def pool(self, text: Tensor, image: Tensor) -> Tensor:
        """States of both -> the pooled vector [B, E].  Raises ConfigError for a model without one."""
        if self.text_pool is None or self.config.pool is None:
            raise ConfigError("regions and text: this model has no pooled vector")
        said = self.act(self.text_pool(text[:, 0]))
        if self.image_pool is None:
            return said
        seen = self.act(self.image_pool(image[:, 0]))
        return said * seen if self.config.pool.join == "mul" else said + seen

    def predictions(self, **batch: Any) -> dict[str, Tensor]:
        """The outputs of all heads by name."""
        return self.read_heads(*self.encode(**batch), batch.get("visual_attention_mask"))

    def read_heads(self, text: Tensor, image: Tensor, visual_attention_mask: Tensor | None = None) -> dict[str, Tensor]:
        """The outputs of all heads from states of both; of a model without heads the states themselves."""
        states = {"text": text, "image": image}
        if self.text_pool is not None:
            states["pooled"] = self.pool(text, image)
        if not self.heads:
            return states
        found: dict[str, Tensor] = {}
        for name, module in self.heads.items():
            head = self.config.heads[name]
            x = states[head.reads]
            if isinstance(module, TokenHead):
                x = module(x, self.text.embed_tokens.weight if module.weight is None else None)
            elif isinstance(module, FeatureRegression):
                x = module(x, self.regions.feature_proj.weight)
            else:
                x = module(x)
            if isinstance(x, dict):
                found |= x
                continue
            if head.score and visual_attention_mask is not None:
                x = x - FAR * (1 - visual_attention_mask.to(x.dtype))[..., None]
            found[name] = x
        return found

    def forward(self, *, labels: Tensor | None = None, **batch: Any) -> Output:
        """logits of the main head; predictions: of every head; hidden [B, T, D] of the text.

        labels: classes [B], or scores [B, classes] of several right answers.
        """
        inputs = _check_inputs(batch)
        text, image = self._text(inputs), self._regions(inputs)
        states = self._run(text, image, inputs)
        found = self.read_heads(*states, inputs.get("visual_attention_mask"))
        logits = found.get(self.config.main) if self.config.main else None
        loss = None
        if labels is not None:
            if logits is None:
                raise ConfigError(
                    f"regions and text: labels need a main head; this model has {', '.join(found) or '-'}"
                )
            loss = classification_loss(logits, labels)
        return Output(
            logits=logits,
            hidden=states[0],
            features={"text": text, "image": image},
            predictions=found or None,
            loss=loss,
            losses=None if loss is None else {"classification": loss},
        )

    def _text(self, batch: Mapping[str, Any]) -> Tensor:
        if "input_ids" not in batch:
            raise PromptError(f"regions and text: expected input_ids, found {sorted(batch)}")
        return self.text.embed(batch["input_ids"], batch.get("token_type_ids"))

    def _regions(self, batch: Mapping[str, Any]) -> Tensor:
        """Embedded regions; in one stream they are of the text's second kind."""
        if missing := [name for name in ("visual_feats", "visual_pos") if name not in batch]:
            raise PromptError(f"regions and text: expected {missing[0]}, found {sorted(batch)}")
        kinds, kind = self.text.embed_segments, None
        if self.config.streams is None and kinds is not None:
            kind = kinds(torch.ones((), dtype=torch.long, device=kinds.weight.device))
        return self.regions(batch["visual_feats"], batch["visual_pos"], kind, batch.get("masked_regions"))

    def _run(self, text: Tensor, image: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        masks = (batch.get("attention_mask"), batch.get("visual_attention_mask"))
        if len(text) != len(image):
            raise PromptError(f"regions and text: {len(text)} texts for {len(image)} pictures; they are paired by row")
        streams = self.config.streams
        if streams is None:
            both = [torch.ones(x.shape[:2], device=x.device) if mask is None else mask.to(x.dtype)
                    for x, mask in zip((text, image), masks, strict=True)]  # fmt: skip
            joint = None if masks == (None, None) else padding_mask(torch.cat(both, 1))
            states = self.text.run(torch.cat((text, image), 1), MaskSpec(causal=False, attention_mask=joint))
            return states[:, : text.shape[1]], states[:, text.shape[1] :]
        words = MaskSpec(causal=False, attention_mask=padding_mask(masks[0]))
        seen = MaskSpec(causal=False, attention_mask=padding_mask(masks[1]))
        prepared = words.prepare(text.shape[1], text.shape[1], text.device)
        regions = seen.prepare(image.shape[1], image.shape[1], image.device)
        done = (0, 0)
        for i, exchange in enumerate(self.exchanges):
            text = self.text.run(text, words, layers=(done[0], streams.before[i][0]))
            image = self._see(image, regions, done[1], streams.before[i][1])
            text, image = exchange(text, image, prepared, regions)
            done = streams.before[i]
        text = self.text.run(text, words, layers=(done[0], len(self.text.blocks)))
        return text, self._see(image, regions, done[1], len(self.image_blocks))

    def _see(self, image: Tensor, mask: PreparedMask, first: int, end: int) -> Tensor:
        for block in self.image_blocks[first:end]:
            image = block(image, mask)
        return image


def _check_inputs(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch without None values; raises ConfigError for unknown inputs."""
    inputs = {name: value for name, value in batch.items() if value is not None}
    if unknown := sorted(set(inputs) - set(_INPUTS)):
        raise ConfigError(f"regions and text: does not know the inputs {unknown}; it takes {', '.join(_INPUTS)}")
    return inputs
