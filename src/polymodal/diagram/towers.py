"""Pictures of models that compare modalities in a joint space, and of a single encoder with its head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from polymodal.diagram.blocks import block_group
from polymodal.diagram.graph import Group, Node, Row
from polymodal.diagram.sketch import Sketch
from polymodal.encoders.heads import ClassLogits, PatchLogits
from polymodal.models.dual_encoder import DualEncoder
from polymodal.models.encoder_classifier import EncoderClassifier
from polymodal.models.joint_embedding import JointEmbedding
from polymodal.models.qformer_retrieval import QFormerRetrieval

SHOWN_AS = {"vision": "image"}
"""Encoders whose name is not that of their modality."""


def stack_groups(sketch: Sketch, key: str, module: nn.Module, source: str = "image") -> tuple[Group, ...]:
    """Embedding, blocks and projection of a transformer, read off its children; empty for another network."""
    children = dict(module.named_children())
    blocks = children.get("blocks")
    if not isinstance(blocks, nn.ModuleList) or not len(blocks):
        return ()
    rows = [*embedding_rows(sketch, key, module)]
    groups = [Group(rows=tuple(rows))] if rows else []
    groups.append(block_group(key, blocks, sketch.parameters, source))
    head = children.get("head", children.get("proj"))
    linear = next((each for each in head.modules() if isinstance(each, nn.Linear)), None) if head is not None else None
    if head is not None and linear is not None:
        groups.append(Group(rows=(Row(key=f"{key}.proj", title="projection", names=sketch.names(head),
                                      text=f"{linear.in_features} -> {linear.out_features}"),)))  # fmt: skip
    return tuple(groups)


def embedding_rows(sketch: Sketch, key: str, module: nn.Module) -> Sequence[Row]:
    """How pixels or ids become the first states."""
    children = dict(module.named_children())
    patches, table = children.get("patch_embed"), children.get("embed_tokens")
    if isinstance(patches, nn.Conv2d):
        side = " x ".join(str(each) for each in patches.kernel_size)
        return (Row(key=f"{key}.embed", title="patch embedding", text=f"{side} pixels -> {patches.out_channels}",
                    names=sketch.names(patches)),)  # fmt: skip
    if isinstance(table, nn.Embedding):
        others = [child for name, child in children.items() if name.startswith("embed_")]
        return (Row(key=f"{key}.embed", title="token embedding", names=sketch.names(*others),
                    text=f"{table.num_embeddings} ids -> {table.embedding_dim}"),)  # fmt: skip
    return ()


def draw_encoder(sketch: Sketch, module: nn.Module, key: str, lane: str, source: str) -> None:
    """An encoder with its layers where they are transformer blocks, else as one box."""
    groups, part = stack_groups(sketch, key, module), sketch.part_of(module)
    if groups:
        names = sketch.names(module)
        shapes = () if part is None else (part.input, f"-> {part.output}")
        sketch.add(Node(key=key, kind="backbone", column="encoder", lanes=(lane,), names=names, groups=groups,
                        title=type(module).__name__ if part is None else part.name,
                        lines=(sketch.size(names), *shapes), modality=lane))  # fmt: skip
    else:
        sketch.module_node(module, key=key, kind="encoder", column="encoder", lanes=(lane,), modality=lane)
    sketch.connect(source, key, lane)


def last_of(sketch: Sketch, key: str) -> str:
    """The key of a panel's projection, where it has one, else its own."""
    node = next(each for each in sketch.nodes if each.key == key)
    rows = [row.key for group in node.groups for row in group.rows]
    return f"{key}.proj" if f"{key}.proj" in rows else key


def draw_dual_encoder(sketch: Sketch, model: DualEncoder) -> None:
    """CLIP: towers that meet in a joint space."""
    sketch.lanes = sorted(model.encoders, key=lambda name: name == "text")
    for name in sketch.lanes:
        source = sketch.tokenizer() if name == "text" else sketch.input(name)
        draw_encoder(sketch, model.encoders[name], f"encoder.{name}", name, source)
    scale = () if model.logit_scale is None else ("similarity x exp(logit_scale)",)
    names = ("logit_scale",) if model.logit_scale is not None else ()
    draw_space(sketch, [(name, f"encoder.{name}") for name in sketch.lanes], names,
               (*widths_of(sketch), "each vector to length 1", *scale))  # fmt: skip


def widths_of(sketch: Sketch) -> tuple[str, ...]:
    """The shape of joint vectors, by the record."""
    return tuple(part.output for part in sketch.parts if part.slot == "encoder")[:1]


def draw_space(sketch: Sketch, towers: Sequence[tuple[str, str]], names: tuple[str, ...], lines: Sequence[str]) -> None:
    """The joint space beside all its towers, and what comes of it."""
    axes = (towers[0][0], towers[1][0]) if len(towers) > 1 else None
    sketch.add(Node(key="space", kind="space", column="space", lanes=tuple(sketch.lanes), title="joint space",
                    lines=tuple(lines), names=names, matrix=axes))  # fmt: skip
    for modality, key in towers:
        sketch.connect(last_of(sketch, key), "space", modality)
    for index, name in enumerate(("embedding", "similarity") if axes else ("embedding",)):
        lane = sketch.lanes[min(index, len(sketch.lanes) - 1)] if len(sketch.lanes) < 4 else sketch.lanes[2 + index]
        shape = ("[N, B]",) if name == "similarity" else ()
        sketch.output(name, "space", lane, "", shape)


def draw_joint_embedding(sketch: Sketch, model: JointEmbedding) -> None:
    """ImageBind: an encoder for each modality, one space."""
    sketch.lanes = [name for name in sketch.system.inputs if name != "text"] + ["text"]
    towers = []
    for name, encoder in model.encoders.items():
        lane = SHOWN_AS.get(name, name)
        if lane not in sketch.lanes:
            continue
        shared = tuple(each for each in sketch.lanes if each == lane or (lane == "image" and each == "video"))
        key = f"encoder.{lane}"
        sketch.module_node(encoder, key=key, kind="encoder", column="encoder", lanes=shared, modality=lane)
        for each in shared:
            sketch.connect(sketch.tokenizer() if each == "text" else sketch.input(each), key, each)
        towers.append((lane, key))
    draw_space(sketch, towers, (), (*widths_of(sketch), "each vector to length 1, times a scale of its modality"))


def draw_encoder_classifier(sketch: Sketch, model: EncoderClassifier) -> None:
    """ViT, BEiT: one encoder, perhaps with a head."""
    lane = model.modality
    sketch.lanes = [lane]
    draw_encoder(sketch, model.encoders[lane], f"encoder.{lane}", lane, sketch.input(lane))
    last = f"encoder.{lane}"
    if isinstance(model.head, ClassLogits | PatchLogits) and model.head.proj is not None:
        linear = model.head.proj
        name = "classes" if isinstance(model.head, ClassLogits) else "visual words"
        where = "every patch"
        if isinstance(model.head, ClassLogits):
            where = "class token" if model.head.config.pool == "class" else "mean of the patches"
        names, sizes = sketch.names(model.head), f"{linear.in_features} -> {linear.out_features}"
        sketch.add(Node(key="head", kind="head", column="head", lanes=(lane,), title="head", names=names,
                        lines=(sketch.size(names), where, sizes)))  # fmt: skip
        sketch.connect(last, "head", lane)
        sketch.output(name, "head", lane, "")
    elif "logits" in model.output_fields:
        sketch.output("logits", last, lane, "")
    if "features" in sketch.system.outputs or model.head is None:
        below = lane if model.head is None else "features"  # past the head
        sketch.lanes = list(dict.fromkeys((lane, below)))
        sketch.output("features", last, below, lane)


def draw_qformer_retrieval(sketch: Sketch, model: QFormerRetrieval) -> None:
    """BLIP-2's first stage: queries of pictures and texts in one space, and a matching head."""
    sketch.lanes = ["image", "text"]
    sketch.columns["connector"] = "Q-Former"
    qformer: Any = model.connectors["image"]
    sketch.module_node(qformer, key="qformer", kind="connector", column="connector", lanes=("image", "text"))
    if "image" in model.encoders:
        draw_encoder(sketch, model.encoders["image"], "encoder.image", "image", sketch.input("image"))
        sketch.connect("encoder.image", "qformer", "image")
    if model.config.texts or model.config.matching:
        sketch.connect(sketch.tokenizer(), "qformer", "text")
    linears = [(name, model.connectors[f"{name}_proj"]) for name in sketch.lanes
               if f"{name}_proj" in model.connectors]  # fmt: skip
    names = sketch.names(*(linear for _, linear in linears))
    axes = ("image", "text") if len(linears) == 2 else None
    lines = (sketch.size(names), f"{qformer.config.width} -> {model.config.joint_width} each",
             "best query of a picture") if names else ()  # fmt: skip
    sketch.add(Node(key="space", kind="space", column="space", lanes=("image",), title="joint space", lines=lines,
                    names=names, matrix=axes))  # fmt: skip
    sketch.connect("qformer", "space", "")
    sketch.output("similarity" if axes else "embedding", "space", "image", "")
    if "match_head" in model.connectors:
        sketch.module_node(model.connectors["match_head"], key="match", kind="head", column="space", lanes=("text",),
                           title="match head", lines=("pair -> no, yes; mean over the queries",))  # fmt: skip
        sketch.connect("qformer", "match", "")
        sketch.output("match", "match", "text", "")
