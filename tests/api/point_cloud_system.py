"""A system of a user's own that sees point clouds: a modality which the package has no encoder for.

points [N, P, 3] -> sorted along x into 4 parts -> MLP per point, largest of each part -> [N, 4, 32] -> decoder
"""

import torch
from tokenizers import Tokenizer as Pipeline
from tokenizers import decoders, models, pre_tokenizers
from torch import Tensor, nn

from polymodal.backbones.decoder import DecoderBlockConfig, DecoderConfig
from polymodal.data.processor import Modality, Processor
from polymodal.data.template import Special, chatml
from polymodal.data.tokenizer import Tokenizer
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import GatedMLPConfig
from polymodal.nn.rope import RopeConfig
from polymodal.systems import LoadedModel, LoadOptions, Part, System, Variant

WIDTH, PARTS, POINTS = 32, 4, 64
SPECIAL = ("<|im_start|>", "<|im_end|>", "<|cloud|>", "<|points|>")


class PointEncoder(nn.Module):
    """point_cloud_values [N, P, 3] -> features [N, 4, 32]"""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(3, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH))

    def forward(self, points: Tensor) -> Tensor:
        return self.mlp(points).unflatten(1, (PARTS, -1)).amax(2)


def points_of(cloud) -> Tensor:
    """An array of points [n, 3] -> [64, 3], repeated or thinned, in order of their first coordinate."""
    points = torch.from_numpy(cloud.values)
    chosen = torch.linspace(0, len(points) - 1, POINTS).round().long()
    return points[points[:, 0].argsort()][chosen]


def tokenizer() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pipeline = Pipeline(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    pipeline.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pipeline.decoder = decoders.ByteLevel()
    pipeline.add_tokens(list(SPECIAL))
    return Tokenizer(pipeline, control=SPECIAL, eos="<|im_end|>", pad="<|im_end|>")


def build(variant: Variant) -> MultimodalLM:
    block = DecoderBlockConfig(
        attention=AttentionConfig(width=WIDTH, heads=4), mlp=GatedMLPConfig(width=WIDTH, ffn_width=64)
    )
    size = 256 + len(SPECIAL)
    backbone = DecoderConfig(vocab_size=size, width=WIDTH, blocks=(block, block), rope=RopeConfig(head_dim=8))
    encoders, connectors = {"point_cloud": PointEncoder()}, {"point_cloud": nn.Linear(WIDTH, WIDTH)}
    return MultimodalLM(encoders, connectors, backbone.build(), {"point_cloud": size - 1})


def load(variant: Variant, options: LoadOptions) -> LoadedModel:
    torch.manual_seed(0)
    model = build(variant)
    cloud = Modality(
        name="point_cloud", placeholder="<|points|>", transform=points_of, tokens=lambda points: PARTS,
        before=(Special(name="<|cloud|>"),),
    )  # fmt: skip
    prepare = Processor(tokenizer=tokenizer(), template=chatml(default_system=None), modalities=(cloud,))

    def embed(items) -> Tensor:
        rows = [model(**prepare([{"role": "user", "content": [item]}])).hidden[0, -1] for item in items]
        return nn.functional.normalize(torch.stack(rows), dim=-1)

    return LoadedModel(model=model, processor=prepare, embed=embed)


def parts(variant: Variant) -> tuple[Part, ...]:
    return (
        Part(slot="encoder", modality="point_cloud", name="points", prefix="encoders.point_cloud", input="[N, P, 3]",
             output="[N, 4, 32]", tokens=PARTS),
        Part(slot="connector", modality="point_cloud", name="linear", prefix="connectors.point_cloud",
             input="[N, 4, 32]", output="[N, 4, 32]", tokens=PARTS),
        Part(slot="backbone", name="tiny decoder", prefix="backbone", input="[B, T, 32]", output="[B, T, 260]"),
    )  # fmt: skip


SYSTEM = System(
    id="points",
    aliases=("Points",),
    year=2026,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "point_cloud"),
    outputs=("text", "embedding"),
    variants=(Variant(name="toy", parameters=0),),
    headline="sees points and says nothing sensible",
    reference="tests/api/point_cloud_system.py",
    build=build,
    parts=parts,
    load=load,
)
