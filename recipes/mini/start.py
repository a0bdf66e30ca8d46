"""`mini` as the stages of its recipe begin: `polymodal train recipes/mini/start.py:STAGE --stage STAGE --data FILE`.

    align      what solve.py solved, a fresh `recall`; what the grid of EfficientNet says comes from files (align.py)
    instruct   fresh dense features and confidence, fresh adapters beside the linears of SmolLM2
    several    those of the released file, to be trained on
    hear       a fresh connector of recordings, with the tokens that hear.py chose

`polymodal train mini` goes on from the finished model instead, whose adapters are part of its weights.  The frozen
weights of adapted blocks are kept in bfloat16, in which the stages multiply by them anyway.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from polymodal.connectors.ctc import CTCConnector
from polymodal.data.media import Image
from polymodal.data.processor import Processor
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.lora import LoRALinear, apply_lora, remove_lora
from polymodal.systems import LoadedModel, LoadOptions, Variant, mini
from polymodal.systems.mini.components import ADAPTED, ALPHA, HEARS, RANK

SEED = 2
STAGES = ("align", "instruct", "several", "hear")


def load(variant: Variant, options: LoadOptions) -> LoadedModel:
    """What was trained before the stage, from the released files, and the published parts."""
    chosen = mini.SYSTEM.variant(HEARS if variant.name == "hear" else None)
    loaded = mini.load(chosen, options, apart=True)
    torch.manual_seed(SEED)
    if variant.name == "align":
        return for_names(loaded)
    if variant.name == "instruct":
        adapt(loaded.model)
    if variant.name == "hear":
        for_speech(loaded.model.connectors["audio"], loaded.processor)
    for part in loaded.model.backbone.modules():
        if isinstance(part, LoRALinear):
            part.weight.data = part.weight.data.bfloat16()
    return loaded


def fresh(part: nn.Module) -> None:
    """New weights, as torch draws them."""
    if hasattr(part, "reset_parameters"):
        part.reset_parameters()


def for_names(loaded: LoadedModel) -> LoadedModel:
    """A model of the connector alone, which takes the files of align.py for pictures."""
    model, image = loaded.model, loaded.processor.modalities["image"]
    connector = model.connectors["image"]
    fresh(connector.recall)
    small = MultimodalLM({"image": Encoded()}, {"image": connector}, model.backbone, model.placeholders)
    seen = replace(image, transform=encoded, collate=torch.stack)
    processor = Processor(tokenizer=loaded.processor.tokenizer, template=loaded.processor.template, modalities=(seen,))
    return replace(loaded, model=small, processor=processor, score=None, embed=None, ground=None)


class Encoded(nn.Module):
    """In place of an encoder: its features [N, S, D] are given."""

    def forward(self, features: Tensor) -> Tensor:
        return features


def encoded(picture: Image) -> Tensor:
    """The features in a file of align.py, [S, D]."""
    return torch.from_numpy(np.load(picture.source).astype(np.float32))


def adapt(model: MultimodalLM) -> None:
    """Adapters, dense features and confidence as before any conversation."""
    remove_lora(model.backbone)
    apply_lora(model.backbone, ADAPTED, RANK, ALPHA)
    connector = model.connectors["image"]
    connector.dense.apply(fresh)
    nn.init.zeros_(connector.confidence)


def for_speech(connector: CTCConnector, processor: Processor) -> None:
    """Fresh weights; most tokens occur once or twice, so that their keys follow from their spelling at first."""
    connector.apply(fresh)
    nn.init.zeros_(connector.classes.weight)
    tokens = [processor.tokenizer.decode([index]) for index in connector.token_ids.tolist()]
    keys = SpellingKeys(spellings(tokens), connector.config.key_width)
    parametrize.register_parametrization(connector.classes, "weight", keys)


class SpellingKeys(nn.Module):
    """Class keys: a residual [V + 1, K] plus projected spelling features; the blank has no spelling."""

    features: Tensor

    def __init__(self, features: Tensor, width: int):
        super().__init__()
        self.register_buffer("features", features, persistent=False)
        self.matrix = nn.Parameter(torch.randn(features.shape[1], width) * width**-0.5)

    def forward(self, residual: Tensor) -> Tensor:
        return residual + self.features @ self.matrix


def spellings(tokens: Sequence[str]) -> Tensor:
    """Spelling features [V + 1, F], unit rows (0 for the blank): letters by position from either end, pairs, case."""

    def parts(token: str) -> list[str]:
        marked = "^" + token.lower() + "$"
        first = [f"{c}{i}" for i, c in enumerate(token.lower()[:8])]
        last = [f"{c}-{i}" for i, c in enumerate(token.lower()[::-1][:8])]
        case = "upper" if token.strip()[:1].isupper() else "lower"
        return [*first, *last, *(a + b for a, b in pairwise(marked)), case]

    counts = Counter(p for token in tokens for p in set(parts(token)))
    columns = {p: i for i, p in enumerate(sorted(p for p, n in counts.items() if n > 1))}
    table = torch.zeros(len(tokens) + 1, len(columns))
    for row, token in enumerate(tokens):
        for part in parts(token):
            if part in columns:
                table[row, columns[part]] = 1
    return F.normalize(table, dim=-1)


SYSTEM = replace(
    mini.SYSTEM,
    variants=tuple(replace(mini.SYSTEM.variants[name == "hear"], name=name, summary=f"as stage {name} begins")
                   for name in STAGES),
    load=load,
)  # fmt: skip
