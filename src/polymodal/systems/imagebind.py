"""ImageBind: pictures, video, sound, text, depth, heat and motion as vectors of one space.

Paper: ImageBind: One Embedding Space To Bind Them All (arXiv 2305.05665).

    each modality -> its own transformer -> class (or end) token -> linear [N, 1024] -> unit length * fixed scale
    clips of one item are averaged                    (fusion: dot products; only pairs with pictures were trained)

Traps: the scale is part of the published vector; five and more dimensions mean clips; the numbers of heads are in no
tensor, so that a file without a config takes those of the published size.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from polymodal.encoders import imagebind_keys
from polymodal.encoders.imagebind_keys import MODALITIES
from polymodal.models.joint_embedding import JointEmbedding
from polymodal.pipelines.embedding import JointTensors, embedder
from polymodal.systems import (
    CheckpointFiles,
    CheckpointFormat,
    ConfigMatch,
    Contrastive,
    DataSource,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    Stage,
    System,
    Variant,
)
from polymodal.train.pairs import MediaPairs
from polymodal.weights.keytable import KeyTable


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """Arguments of the official constructor; raises ConfigError for others."""
    encoders, table = imagebind_keys.parse_config(config), KeyTable()
    for name in MODALITIES:
        table += imagebind_keys.keys(name).prefixed(target=f"encoders.{name}.")
    width = encoders["vision"].out_width
    parts = tuple(
        Part(slot="encoder", modality="image" if name == "vision" else name, name=f"ImageBind {name}",
             prefix=f"encoders.{name}", input=imagebind_keys.INPUT_SHAPES[name], output=f"[N, {width}]", tokens=1)
        for name in MODALITIES
    )  # fmt: skip
    return ModelSpec(
        build=lambda: JointEmbedding({name: imagebind_keys.imagebind(config, name) for name in MODALITIES}),
        keys=(table,),
        parts=parts,
        assemble=assemble,
    )


def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
    """Vectors of pictures, videos, sounds and sentences from a folder with CLIP's tokenizer."""
    tokenizer = files.tokenizer()
    begin, end = tokenizer.special("<|startoftext|>"), tokenizer.special("<|endoftext|>")

    def ids(text: str) -> list[int]:
        return [begin, *tokenizer.encode(text)[:75], end]

    def collator(objective: Any, learner: Any) -> Any:
        return MediaPairs(tensors=JointTensors(ids=ids))

    return LoadedModel(model=module, processor=None, embed=embedder(module, ids), collator=collator)


def stage(modality: str, data: str) -> Stage:
    """One encoder is bound to the frozen one of pictures; rates, batches and steps were not published with the code."""
    kind = {"imu": "motion"}.get(modality, modality)
    return Stage(
        name=modality,
        data=(DataSource(name=data, kind=f"image-{kind} pairs"),),
        objective=Contrastive(),
        train=(f"encoders.{modality}",),
        start="parts",
        note="pictures and texts from OpenCLIP ViT-H/14, frozen; a fixed temperature for each modality",
    )


SYSTEM = System(
    id="imagebind",
    aliases=("ImageBind", "imagebind_huge"),
    year=2023,
    fusion=(),
    assembly="JointEmbedding",
    inputs=("image", "video", "text", "audio", "depth", "thermal", "imu"),
    outputs=("embedding",),
    formats=(
        CheckpointFormat(name="official imagebind_huge.pth", parse_config=parse_config, infer=imagebind_keys.infer,
               matches=ConfigMatch(model_types=("imagebind",), keys=("imu_embed_dim",))),
    ),
    variants=(
        Variant(name="huge", parameters=1_200_781_057, config={"model_type": "imagebind", **imagebind_keys.HUGE},
                repository=Repository(kind="official", name="imagebind_huge.pth", license="CC-BY-NC-4.0")),
    ),
    headline="finds pictures by sounds, sounds by sentences, and so on among six modalities bound by pictures alone",
    reference="arXiv 2305.05665",
    recipe=(
        stage("audio", "AudioSet, frames with their sound"),
        stage("depth", "SUN RGB-D"),
        stage("thermal", "LLVIP"),
        stage("imu", "Ego4D, frames with their motion"),
    ),
)  # fmt: skip
