"""Text and image tokens in one sequence through one two-way transformer: ViLT (arXiv 2102.03334).

    input_ids -> text embeddings [B, T, D] + kind 0 --+
    pixel_values, pixel_mask -> patches [B, S, D] + kind 1 --+-> blocks -> norm -> first token -> dense, tanh -> head
Heads: a classifier or a rank on the pooled vector, a token head on the text places.  Several pictures with one text
(NLVR2): one pass for each picture, of kind 1, 2, ...; their pooled vectors are joined before the head.
Traps: the text comes first; "kind" is added to BERT's own segment embedding; padding of both is masked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from polymodal.backbones.encoder import TextEncoderConfig, TokenHead
from polymodal.encoders.masked_patches import MaskedPatchesConfig
from polymodal.errors import ConfigError, PromptError
from polymodal.models.output import Output
from polymodal.nn.block import PreNormBlockConfig
from polymodal.nn.losses import classification_loss
from polymodal.nn.mask import MaskSpec
from polymodal.nn.norm import NormConfig
from polymodal.weights.keytable import KeyTable, rename

_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "pixel_values", "pixel_mask")


class HeadConfig(Protocol):
    """What fills `head`: built for the width of what it reads."""

    def build(self) -> nn.Module: ...


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """Linear -> LayerNorm (eps 1e-5) -> GELU -> linear; `hidden` None: one linear."""

    width: int
    classes: int
    hidden: int | None = None

    def build(self) -> nn.Module:
        if self.hidden is None:
            return nn.Linear(self.width, self.classes)
        return nn.Sequential(
            nn.Linear(self.width, self.hidden),
            nn.LayerNorm(self.hidden),
            nn.GELU(),
            nn.Linear(self.hidden, self.classes),
        )


def classifier_keys(source: str, *, hidden: bool) -> KeyTable:
    """`<source>.{0,1,3}` (with a hidden layer) or `<source>` -> the classifier at `head`."""
    places = (".0", ".1", ".3") if hidden else ("",)
    return KeyTable(
        tuple(rename(f"{source}{at}.{leaf}", f"head{at}.{leaf}") for at in places for leaf in ("weight", "bias"))
    )


@dataclass(frozen=True, kw_only=True)
class SingleStreamConfig:
    """`text`: embeddings only, its `blocks` are empty.  `kinds`: 2, or one more than the pictures of a row.

    `pooled` False: the head reads every text place.  `pictures` None: pixel_values are [B, C, H, W], else
    [B, pictures, C, H, W].
    """

    text: TextEncoderConfig
    patches: MaskedPatchesConfig
    blocks: tuple[PreNormBlockConfig, ...]
    norm: NormConfig
    head: HeadConfig
    pooler: bool = True
    pooled: bool = True
    kinds: int = 2
    pictures: int | None = None

    def build(self) -> "SingleStream":
        return SingleStream(self)


class SingleStream(nn.Module):
    """See the module docstring."""

    output_fields = frozenset({"logits", "hidden", "features"})

    def __init__(self, config: SingleStreamConfig):
        super().__init__()
        width = config.text.width
        self.config = config
        self.text = config.text.build()
        self.patches = config.patches.build()
        self.kinds = nn.Embedding(config.kinds, width)
        self.blocks = nn.ModuleList(block.build() for block in config.blocks)
        self.norm = config.norm.build(width)
        self.pooler = nn.Linear(width, width) if config.pooler else None
        self.head = config.head.build()

    def features(self, **batch: Any) -> dict[str, Tensor]:
        """What enters the blocks: `text [B, T, D]`, `image [B, S, D]`, padding included."""
        given = _known(batch)
        image, _ = self._pictures(given)[0]
        return {"text": self._text(given), "image": image + self._kind(1)}

    def encode(self, **batch: Any) -> tuple[Tensor, Tensor]:
        """hidden `[B, T + S, D]` after the norm and its mask (1 = real), text in front; of the first picture."""
        given = _known(batch)
        text, picture = self._text(given), self._pictures(given)[0]
        return self._run(text, given, picture, 1), _real(given, text, picture[1])

    def pool(self, hidden: Tensor) -> Tensor:
        """`[B, T + S, D] -> [B, D]` from the first token; raises ConfigError without a pooler."""
        if self.pooler is None:
            raise ConfigError("SingleStream: a head on the pooled vector needs a pooler")
        return torch.tanh(self.pooler(hidden[:, 0]))

    def forward(self, *, labels: Tensor | None = None, **batch: Any) -> Output:
        """logits `[B, classes]`, or `[B, T, V]` over the text (`pooled` False); hidden `[B, T + S, D]` after the norm,
        of the first picture.

        labels: classes `[B]`, scores `[B, classes]` of several right answers, or hidden words `[B, T]` (-100
        elsewhere).
        """
        given = _known(batch)
        text, pictures = self._text(given), self._pictures(given)
        states = [self._run(text, given, image, kind + 1) for kind, image in enumerate(pictures)]
        logits = self._read(states, text.shape[1])
        loss = None if labels is None else classification_loss(logits, labels)
        name = "classification" if self.config.pooled else "masked_words"
        return Output(
            logits=logits,
            hidden=states[0],
            features={"text": text, "image": pictures[0][0] + self._kind(1)},
            loss=loss,
            losses=None if loss is None else {name: loss},
        )

    def _read(self, states: Sequence[Tensor], length: int) -> Tensor:
        """What the head makes of the states of each picture's pass; `length`: of the text."""
        if self.config.pooled:
            return self.head(torch.cat([self.pool(hidden) for hidden in states], -1))
        words = states[0][:, :length]
        if isinstance(self.head, TokenHead):
            return self.head(words, self.text.embed_tokens.weight if self.head.weight is None else None)
        return self.head(words)

    def _kind(self, number: int) -> Tensor:
        """`[1, D]` of a kind of token; the table is called, so that a sharded one is gathered."""
        return self.kinds(torch.full((1,), number, device=self.kinds.weight.device))

    def _text(self, batch: Mapping[str, Any]) -> Tensor:
        if "input_ids" not in batch:
            raise PromptError(f"SingleStream: expected input_ids, found {sorted(batch)}")
        return self.text.embed(batch["input_ids"], batch.get("token_type_ids")) + self._kind(0)

    def _pictures(self, batch: Mapping[str, Any]) -> Sequence[tuple[Tensor, Tensor]]:
        """Tokens and mask of each row's pictures, in order."""
        pixels, mask = batch.get("pixel_values"), batch.get("pixel_mask")
        if pixels is None:
            raise PromptError(f"SingleStream: expected pixel_values, found {sorted(batch)}")
        wanted = self.config.pictures
        if wanted is None:
            return [self.patches(pixels, mask)]
        if pixels.dim() == 4:
            pixels = pixels[:, None]
        if pixels.shape[1] != wanted:
            raise PromptError(f"SingleStream: expected {wanted} pictures a row, found {pixels.shape[1]}")
        return [self.patches(pixels[:, i], None if mask is None else mask[:, i]) for i in range(wanted)]

    def _run(self, text: Tensor, batch: Mapping[str, Any], image: tuple[Tensor, Tensor], kind: int) -> Tensor:
        tokens, real = image
        if len(tokens) != len(text):
            raise PromptError(f"SingleStream: expected a picture for each of {len(text)} texts, found {len(tokens)}")
        if kind >= self.config.kinds:
            raise ConfigError(f"SingleStream: picture {kind} needs {kind + 1} kinds, found {self.config.kinds}")
        x = torch.cat((text, tokens + self._kind(kind)), 1)
        rule = MaskSpec(causal=False, attention_mask=_real(batch, text, real))
        mask = rule.prepare(x.shape[1], x.shape[1], x.device)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x)


def _real(batch: Mapping[str, Any], text: Tensor, image: Tensor) -> Tensor:
    """Mask `[B, T + S]` of words and of patches, whose own mask is given."""
    words = batch.get("attention_mask")
    words = image.new_ones(text.shape[:2]) if words is None else words.to(image.dtype)
    return torch.cat((words, image), 1)


def _known(batch: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in batch.items() if value is not None}
    if unknown := sorted(set(given) - set(_INPUTS)):
        raise ConfigError(f"SingleStream: does not know the inputs {unknown}; it takes {', '.join(_INPUTS)}")
    return given
