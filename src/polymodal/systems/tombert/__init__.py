"""TomBERT: sentiment of a tweet with a picture toward one target in it.

    tweet + target -> BERT;  target -> a second BERT -> looks at 49 regions of ResNet-152 -> one picture vector
    [picture vector ; tweet + target] -> one block of BERT -> classifier of three sentiments

Paper: Adapting BERT for Target-Oriented Multimodal Sentiment Classification (IJCAI 2019).  Code: jefferyYu/TomBERT (no
licence file), whose state dict is read, with torchvision's ResNet-152 beside it under `resnet.` or without.  Its
authors' weights lie on a drive that no client of a hub reads.
Traps: the mark $T$ of a tweet is not replaced by the target; both texts are lower case; pooling "first" is the picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polymodal.backbones import encoder
from polymodal.checkpoints.method_config import method_config
from polymodal.data.labels import labels_of
from polymodal.encoders.resnet import ResNetConfig
from polymodal.models.tombert import TomBertConfig, official_keys
from polymodal.systems import (
    AdamW,
    Budget,
    CheckpointFiles,
    CheckpointFormat,
    Classification,
    DataSource,
    Linear,
    LoadedModel,
    ModelSpec,
    Part,
    Stage,
    System,
    Variant,
    hf,
)
from polymodal.systems.tombert.samples import TargetedTweets

CONFIGS = ("text_config", "vision_config", "id2label")


def read_shapes(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """The config of an official state dict, None for another's."""
    words, grid = "bert.embeddings.word_embeddings.weight", "vismap2text.weight"
    if words not in shapes or grid not in shapes or "ent2img_pooler.dense.weight" not in shapes:
        return None
    count, width = shapes[words]
    layers = {int(name.split(".")[3]) for name in shapes if name.startswith("bert.encoder.layer.")}
    text = {"vocab_size": count, "hidden_size": width, "num_hidden_layers": len(layers),
            "num_attention_heads": max(1, width // 64),
            "intermediate_size": shapes["bert.encoder.layer.0.intermediate.dense.weight"][0],
            "max_position_embeddings": shapes["bert.embeddings.position_embeddings.weight"][0]}  # fmt: skip
    image, told = "img_pooler.dense.weight" in shapes, "text_pooler.dense.weight" in shapes
    made = {"model_type": "tombert", "text_config": text, "region_width": shapes[grid][1],
            "classes": shapes["classifier.weight"][0],
            "pooling": "both" if image and told else "first" if image else "cls"}  # fmt: skip
    if "resnet.conv1.weight" not in shapes:
        return made
    stages = [{name.split(".")[2] for name in shapes if name.startswith(f"resnet.layer{n}.")} for n in "1234"]
    depths = [len(each) for each in stages]
    return made | {"vision_config": {"depths": depths, "width": shapes["resnet.conv1.weight"][0]}}


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """What `read_shapes` found, or the same dict by hand."""
    text = encoder.parse_config(told := config.get("text_config", {}))
    picture = None
    if config.get("vision_config") is not None:
        seen = dict(config["vision_config"])
        picture = method_config(ResNetConfig, seen | {"depths": tuple(seen.get("depths", (3, 8, 36, 3)))}, "tombert")
    plain = {name: value for name, value in config.items() if name not in CONFIGS}
    blocks = {"heads": told.get("num_attention_heads", 12), "ffn_width": told.get("intermediate_size", 3072)}
    shape = method_config(TomBertConfig, plain, "tombert", text=text, picture=picture, **blocks)
    width = text.width
    seen_by = (
        Part(slot="encoder", name="ResNet, 7 x 7 regions", prefix="picture", modality="image", tokens=49,
             input="[N, 3, H, W]", output=f"[N, 49, {shape.region_width}]"),
    )  # fmt: skip
    drawing = (
        Part(slot="encoder", name="BERT of the tweet", prefix="text", input="ids [B, T]", output=f"[B, T, {width}]"),
        Part(slot="encoder", name="BERT of the target", prefix="target", input="ids [B, S]", output=f"[B, S, {width}]"),
        *(seen_by if picture is not None else ()),
        Part(slot="connector", name="linear", prefix="proj", modality="image", tokens=49,
             input=f"[B, 49, {shape.region_width}]", output=f"[B, 49, {width}]"),
        Part(slot="backbone", name="the target looks at the picture", prefix="look", input="two sequences",
             output=f"[B, {width}]"),
        Part(slot="backbone", name="one block over picture and tweet", prefix="joint", input=f"[B, 1 + T, {width}]",
             output=f"logits [B, {shape.classes}]"),
    )  # fmt: skip
    return ModelSpec(build=shape.build, keys=(official_keys(shape),), parts=drawing, assemble=assemble)


def assemble(module: Any, files: CheckpointFiles) -> LoadedModel:
    """What training reads; classes are those of `id2label`, else "0", "1", "2"."""
    tokenizer, count = files.tokenizer(), module.config.classes
    named = files.json("config.json").get("id2label")
    labels = labels_of({"id2label": named}) if named else tuple(map(str, range(count)))

    def collator(objective: Any, learner: Any) -> TargetedTweets:
        pad = tokenizer.special("[PAD]")
        return TargetedTweets(tokenizer=tokenizer, labels=labels, pad=pad, longest=learner.max_length or 64)

    return LoadedModel(model=module, processor=None, labels=labels, collator=collator)


def published(pooling: str) -> dict[str, Any]:
    """BERT-base and ResNet-152."""
    return {"model_type": "tombert", "pooling": pooling, "text_config": {}, "vision_config": {}}


SYSTEM = System(
    id="tombert",
    aliases=("TomBERT",),
    year=2019,
    fusion=("fusion-encoder",),
    assembly="TomBert",
    inputs=("text", "image"),
    outputs=("sentiment",),
    headline="sentiment toward a target in a tweet, with the regions of the picture that the target looks at",
    reference="IJCAI 2019, pages 5408-5414",
    formats=(
        CheckpointFormat(name="official TomBERT", matches=hf("tombert"), parse_config=parse_config, infer=read_shapes),
    ),
    variants=(
        Variant(name="first", parameters=296_090_155, config=published("first")),
        Variant(name="cls", parameters=296_090_155, config=published("cls")),
        Variant(name="both", parameters=296_683_051, config=published("both")),
    ),
    recipe=(
        Stage(
            name="train",
            data=(DataSource(name="Twitter-15 or Twitter-17", kind="image-text pairs", samples=3_179),),
            objective=Classification(),
            train=("text", "target", "proj", "look", "look_pooler", "joint", "poolers", "classifier"),
            optimizer=AdamW(lr=5e-5, weight_decay=0.01),
            schedule=Linear(warmup_ratio=0.1),
            budget=Budget(batch=32, epochs=8, max_length=64),
            start="parts",
            note="BERT-base, uncased, twice (the second a copy of the first), and ResNet-152, frozen; BertAdam",
        ),
    ),
)
