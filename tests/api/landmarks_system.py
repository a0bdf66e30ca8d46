"""A system of a user's own that reads sequences of raw features: a modality nobody has heard of, of any length.

    landmarks: a clip of s steps, 7 numbers each -> one linear [s, 32] -> s tokens of the sequence -> decoder

A media record of its own stands for such a clip in messages.
"""

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer as Pipeline
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor, nn

from polymodal.backbones.decoder import DecoderBlockConfig, DecoderConfig
from polymodal.connectors.patch_projection import PatchProjection
from polymodal.data.media import Media
from polymodal.data.modalities import sequences
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import chatml
from polymodal.data.tokenizer import Tokenizer
from polymodal.models.multimodal_lm import ModalityInputs, MultimodalLM
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.rope import RopeConfig
from polymodal.systems import LoadedModel, LoadOptions, System, Variant

WIDTH, NUMBERS, VALUES, COUNTS = 32, 7, "landmarks", "landmark_steps"
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|landmark|>")


@dataclass(frozen=True)
class Clip(Media):
    """Steps of landmarks as a tracker gives them."""

    steps: Any
    modality: str = "landmarks"


def tokenizer() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pipeline = Pipeline(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pipeline.decoder = decoders.ByteLevel()
    pipeline.add_tokens(list(SPECIAL))
    return Tokenizer(pipeline, control=SPECIAL, eos="<|im_end|>", pad="<|im_end|>")


def steps_of(item: Any) -> Tensor:
    """A clip, or an array of steps -> [s, 7]"""
    return torch.as_tensor(item.steps if isinstance(item, Clip) else item.values, dtype=torch.float32)


def build(variant: Variant) -> MultimodalLM:
    block = DecoderBlockConfig(
        attention=AttentionConfig(width=WIDTH, heads=4), mlp=GatedMLPConfig(width=WIDTH, ffn_width=64)
    )
    size = 256 + len(SPECIAL)
    backbone = DecoderConfig(vocab_size=size, width=WIDTH, blocks=(block, block), rope=RopeConfig(head_dim=8))
    return MultimodalLM(
        {"landmarks": nn.Identity()},
        {"landmarks": PatchProjection(NUMBERS, WIDTH)},
        backbone.build(),
        {"landmarks": size - 1},
        inputs={"landmarks": ModalityInputs(values=VALUES, connector=(f"counts={COUNTS}",))},
    )


def load(variant: Variant, options: LoadOptions) -> LoadedModel:
    torch.manual_seed(0)
    model = build(variant)
    clip = Modality(
        name="landmarks", placeholder="<|landmark|>", transform=steps_of, tokens=len, token_type=12,
        collate=sequences(VALUES, COUNTS),
    )  # fmt: skip
    prepare = Processor(tokenizer=tokenizer(), template=chatml(default_system=None), modalities=(clip,))

    def embed(items: Any) -> Tensor:
        rows = [model(**prepare([{"role": "user", "content": [item]}])).hidden[0, -1] for item in items]
        return nn.functional.normalize(torch.stack(rows), dim=-1)

    return LoadedModel(model=model, processor=prepare, embed=embed)


SYSTEM = System(
    id="landmarks",
    aliases=("Landmarks",),
    year=2026,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "landmarks"),
    outputs=("text", "embedding"),
    variants=(Variant(name="toy", parameters=0),),
    headline="reads how a face moves",
    reference="tests/api/landmarks_system.py",
    build=build,
    parts=lambda variant: (),
    load=load,
)
