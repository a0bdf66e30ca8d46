"""Pictures of models that join modalities in one encoder: ALBEF, BLIP, FLAVA, ViLT, MulT."""

from __future__ import annotations

from torch import nn

from polymodal.backbones.encoder import TextEncoder, TokenHead
from polymodal.diagram.blocks import block_group
from polymodal.diagram.graph import Cell, Group, Node, Row
from polymodal.diagram.sketch import Sketch
from polymodal.diagram.towers import embedding_rows, stack_groups
from polymodal.models.fusion_classifier import FusionClassifier
from polymodal.models.fusion_encoder import FusionEncoder
from polymodal.models.multimodal_encoder import MultimodalEncoder
from polymodal.models.sequence_fusion import SequenceFusion
from polymodal.models.single_stream import SingleStream
from polymodal.models.vision_encoder_decoder import VisionEncoderDecoder


def draw_image_encoder(sketch: Sketch, image: nn.Module) -> None:
    """The picture's encoder in its lane."""
    sketch.module_node(image, key="image", kind="encoder", column="encoder", lanes=("image",), modality="image")
    sketch.connect(sketch.input("image"), "image", "image")


def panel(sketch: Sketch, key: str, title: str, groups: tuple[Group, ...], **fields: object) -> Node:
    """A stack of blocks with its layers; its parameters are those of its rows."""
    names = tuple(dict.fromkeys(name for group in groups for row in group.rows for name in row.names))
    node = Node(key=key, kind="backbone", title=title, lines=(sketch.size(names),), groups=groups, names=names,
                **fields)  # type: ignore[arg-type]  # fmt: skip
    return sketch.add(node)


def head(sketch: Sketch, module: nn.Module, key: str, title: str, text: str, lane: str) -> None:
    """A head on the states of the encoder over both modalities."""
    names = sketch.names(module)
    sketch.add(Node(key=key, kind="head", column="head", lanes=(lane,), title=title, names=names,
                    lines=(sketch.size(names), text)))  # fmt: skip


def linear_words(module: nn.Module) -> str:
    """ "768 -> 2" of the linears inside a head."""
    linears = [each for each in module.modules() if isinstance(each, nn.Linear)]
    return " -> ".join(str(size) for size in (linears[0].in_features, *(each.out_features for each in linears)))


def draw_fusion_encoder(sketch: Sketch, model: FusionEncoder) -> None:
    """ALBEF, BLIP: aligned in a joint space first, then fused by cross-attention."""
    sketch.lanes = ["aligned", "image", "text"]
    sketch.columns |= {"encoder": "modality encoders", "backbone": "fusion encoder"}
    draw_image_encoder(sketch, model.image)
    text, count = model.text, model.text_layers
    alone, whole = text.blocks[:count], count == len(text.blocks)
    first = Group(rows=tuple(embedding_rows(sketch, "text", text)))
    below = block_group("text", nn.ModuleList(without_cross(block) for block in alone), sketch.parameters)
    panel(sketch, "text", "text encoder", (first, below), column="encoder", lanes=("text",), modality="text")
    sketch.connect(sketch.tokenizer(), "text", "text")
    title = "the same blocks, with the picture" if whole else f"blocks {count} to {len(text.blocks) - 1}"
    upper = block_group("fusion", text.blocks if whole else text.blocks[count:], sketch.parameters)
    panel(sketch, "fusion", title, (upper,), column="backbone", lanes=("image", "text"))
    sketch.connect("image", "fusion.cross", "image")
    sketch.connect("text", "fusion", "text")
    names = (
        *sketch.names(model.image_proj, model.text_proj),
        *(("temperature",) if model.temperature is not None else ()),
    )
    sketch.add(Node(key="space", kind="space", column="space", lanes=("aligned",), title="joint space", names=names,
                    lines=(sketch.size(names), f"class tokens, {linear_words(model.image_proj)} each",
                           "cosine similarity"), matrix=("image", "text")))  # fmt: skip
    sketch.connect("image", "space", "image")
    sketch.connect("text", "space", "text")
    sketch.output("similarity", "space", "aligned", "", ("[N, B]",))
    head(sketch, model.match, "match", "match head", f"{linear_words(model.match)}: no, yes", "image")
    sketch.connect("fusion", "match")
    sketch.output("match", "match", "image", "", ("of a pair",))
    if model.token_head is not None:
        draw_token_head(sketch, model.token_head, text, "fusion")
        sketch.output("words", "words", "text", "text", ("masked ones",))


def without_cross(block: nn.Module) -> nn.Module:
    """A view of a block without its cross-attention, as the text alone runs through it."""
    view = nn.Module()
    for name, child in block.named_children():
        if name not in ("cross", "cross_norm"):
            view.add_module(name, child)
    return view


def draw_token_head(sketch: Sketch, module: TokenHead, text: TextEncoder, source: str) -> None:
    """States to logits over the vocabulary."""
    vocabulary = text.embed_tokens.num_embeddings if module.weight is None else module.weight.shape[0]
    tied = ", tied" if module.weight is None else ""
    head(sketch, module, "words", "word head", f"{module.dense.in_features} -> {vocabulary}{tied}", "text")
    sketch.connect(source, "words", "text")


def draw_fusion_classifier(sketch: Sketch, model: FusionClassifier) -> None:
    """ALBEF and BLIP on pairs of pictures, entailment: a class for a text about pictures."""
    sketch.lanes = ["image", "text"]
    sketch.columns["backbone"] = "fusion encoder"
    draw_image_encoder(sketch, model.image)
    groups = stack_groups(sketch, "fusion", model.text)
    panel(sketch, "fusion", "text encoder that reads the picture", groups, column="backbone", lanes=("image", "text"))
    sketch.connect(sketch.tokenizer(), "fusion", "text")
    sketch.connect("image", "fusion.cross", "image")
    head(sketch, model.head, "head", "class head", linear_words(model.head), "text")
    sketch.connect("fusion", "head", "text")
    sketch.output("class", "head", "text", "")
    if model.fusion.images > 1:
        sketch.notes.append(f"{model.fusion.images} pictures for each text")


def draw_vision_encoder_decoder(sketch: Sketch, model: VisionEncoderDecoder) -> None:
    """BLIP, ALBEF: a decoder writes a caption, or the answer to a question that read the picture."""
    sketch.lanes = ["image", "text"]
    sketch.columns |= {"connector": "question encoder", "backbone": "text decoder"}
    draw_image_encoder(sketch, model.image)
    tokenizer = sketch.tokenizer()
    source = "image" if model.question is None else "text"
    groups = stack_groups(sketch, "decoder", model.decoder, source)
    vocabulary, width = model.decoder.embed_tokens.weight.shape
    words = Row(key="decoder.head", title="head, tied to the embedding" if model.tied else "head",
                text=f"{width} -> {vocabulary} logits", names=sketch.names(model.head))  # fmt: skip
    panel(sketch, "decoder", "text decoder", (*groups, Group(rows=(words,))), column="backbone",
          lanes=("image", "text"))  # fmt: skip
    if model.question is None:
        sketch.connect("image", "decoder.cross", "image")
        sketch.connect(tokenizer, "decoder", "text")
    else:
        asked = stack_groups(sketch, "question", model.question)
        panel(sketch, "question", "question encoder", asked, column="connector", lanes=("image", "text"))
        sketch.connect("image", "question.cross", "image")
        sketch.connect(tokenizer, "question", "text")
        sketch.connect("question", "decoder.cross", "text")
    name = "answer" if model.question is not None and "answer" in sketch.system.outputs else "text"
    sketch.output(name, "decoder.head", "text", lines=("ids -> text",))


def draw_multimodal_encoder(sketch: Sketch, model: MultimodalEncoder) -> None:
    """FLAVA: two encoders, a joint space, and an encoder over both."""
    sketch.lanes = ["aligned", "image", "text"]
    sketch.columns |= {"encoder": "modality encoders", "connector": "projections", "backbone": "multimodal encoder"}
    draw_image_encoder(sketch, model.image)
    if model.codec is not None:
        sketch.module_node(model.codec, key="codec", kind="encoder", column="encoder", lanes=("image",),
                           title="codec", lines=("tokens of masked patches, to learn",))  # fmt: skip
        sketch.connect("input.image", "codec", "image")
    sketch.module_node(model.text, key="text", kind="encoder", column="encoder", lanes=("text",), modality="text")
    sketch.connect(sketch.tokenizer(), "text", "text")
    for name, linear in model.to_joint.items():
        names = sketch.names(linear)
        sketch.add(Node(key=f"to_joint.{name}", kind="connector", column="connector", lanes=(name,), title="linear",
                        lines=(sketch.size(names), linear_words(linear)), names=names, modality=name))  # fmt: skip
        sketch.connect(name, f"to_joint.{name}", name)
    names = (*sketch.names(model.image_proj, model.text_proj), "logit_scale")
    sketch.add(Node(key="space", kind="space", column="space", lanes=("aligned",), title="joint space", names=names,
                    lines=(sketch.size(names), f"first tokens, {linear_words(model.image_proj)} each"),
                    matrix=("image", "text")))  # fmt: skip
    sketch.connect("image", "space", "image")
    sketch.connect("text", "space", "text")
    sketch.output("image embedding", "space", "aligned", "image")
    sketch.output("text embedding", "space", "aligned", "text")
    blocks = (block_group("joint", model.joint.blocks, sketch.parameters),)
    panel(sketch, "joint", "blocks over class token, picture and text", blocks, column="backbone",
          lanes=("image", "text"))  # fmt: skip
    for name in model.to_joint:
        sketch.connect(f"to_joint.{name}", "joint", name)
    sketch.output("joint embedding", "joint", "image", "")
    if model.heads is not None:
        draw_pretraining_heads(sketch, model)


def draw_pretraining_heads(sketch: Sketch, model: MultimodalEncoder) -> None:
    """Heads of pretraining: pairs, words and picture tokens."""
    assert model.heads is not None
    heads = dict(model.heads.items())
    masked = [each for name, each in heads.items() if name != "match"]
    if "match" in heads:
        head(sketch, heads["match"], "match", "match head", f"{linear_words(heads['match'])}: no, yes", "text")
        sketch.connect("joint", "match")
        sketch.output("match", "match", "text", "", ("of a pair",))
    names = sketch.names(*masked)
    sketch.add(Node(key="masked", kind="head", column="head", lanes=("text",), title="masked token heads", names=names,
                    lines=(sketch.size(names), "picture tokens and words, from one encoder or from both")))  # fmt: skip
    sketch.connect("joint", "masked")
    sketch.output("masked tokens", "masked", "text", "")


def draw_single_stream(sketch: Sketch, model: SingleStream) -> None:
    """ViLT: words and patches in one sequence."""
    sketch.lanes = ["text", "image"]
    sketch.columns |= {"encoder": "embeddings", "backbone": "one encoder for both"}
    sketch.module_node(model.patches, key="image", kind="encoder", column="encoder", lanes=("image",),
                       modality="image")  # fmt: skip
    sketch.connect(sketch.input("image"), "image", "image")
    sketch.module_node(model.text, key="text", kind="encoder", column="encoder", lanes=("text",), modality="text")
    sketch.connect(sketch.tokenizer(), "text", "text")
    width = model.config.text.width
    cells = (Cell(key="cell.text", text="words", modality="text", lane="text", discrete=True),
             Cell(key="cell.image", text="class token, h x w patches", modality="image", lane="image"))  # fmt: skip
    sketch.add(Node(key="sequence", kind="sequence", column="sequence", lanes=("text", "image"), cells=cells,
                    title="one sequence", lines=(f"[B, T + S, {width}]", "plus type embeddings"),
                    names=sketch.names(model.kinds)))  # fmt: skip
    sketch.connect("image", "cell.image", "image")
    sketch.connect("text", "cell.text", "text")
    groups = (block_group("blocks", model.blocks, sketch.parameters),)
    panel(sketch, "blocks", "ViT blocks over both", groups, column="backbone", lanes=("text", "image"))
    sketch.connect("sequence", "blocks")
    if isinstance(model.head, TokenHead):
        draw_token_head(sketch, model.head, model.text, "blocks")
        sketch.output("words", "words", "text", "text", ("masked ones",))
        return
    names = sketch.names(model.pooler, model.head)
    last = [each for each in model.head.modules() if isinstance(each, nn.Linear)][-1]
    sketch.add(Node(key="head", kind="head", column="head", lanes=("text",), title="pooler and head", names=names,
                    lines=(sketch.size(names), f"first token, {linear_words(model.head)}")))  # fmt: skip
    sketch.connect("blocks", "head")
    sketch.output("rank" if last.out_features == 1 else "answer class", "head", "text", "")


def draw_sequence_fusion(sketch: Sketch, model: SequenceFusion) -> None:
    """MulT: each sequence reads the two others."""
    shown = {"vision": "video"}
    sketch.lanes = [shown.get(name, name) for name in model.config.features]
    sketch.columns |= {"connector": "over time", "backbone": "cross-modal transformers", "head": "memories",
                       "output connector": "last steps"}  # fmt: skip
    for name, size in model.config.features.items():
        lane = shown.get(name, name)
        sketch.input(lane)
        names = sketch.names(model.proj[name]) if name in model.proj else ()
        words = (sketch.size(names),) if names else ("as it is",)
        sketch.add(Node(key=f"proj.{name}", kind="connector", column="connector", lanes=(lane,), names=names,
                        title="convolution over time" if names else "features", modality=lane,
                        lines=(*words, f"[B, T, {size}] -> [B, T, {model.config.width}]")))  # fmt: skip
        sketch.connect(f"input.{lane}", f"proj.{name}", lane)
    for target in model.config.targets:
        draw_target(sketch, model, target, shown.get(target, target), shown)
    names = sketch.names(model.proj1, model.proj2, model.out)
    sketch.add(Node(key="last", kind="head", column="output connector", title="residual MLP and linear", names=names,
                    lanes=tuple(sketch.lanes),
                    lines=(sketch.size(names), f"{model.proj1.in_features} -> {model.out.out_features}")))  # fmt: skip
    for target in model.config.targets:
        sketch.connect(f"memory.{target}", "last", shown.get(target, target))
    score = model.config.outputs == 1
    sketch.output("score" if score else "emotion", "last", sketch.lanes[len(sketch.lanes) // 2], "")


def draw_target(sketch: Sketch, model: SequenceFusion, target: str, lane: str, shown: dict[str, str]) -> None:
    """One stream: what it reads, and its memory."""
    sources = [name for name in model.config.features if name != target]
    rows = tuple(
        Row(key=f"cross.{target}.{name}", title=f"{lane} reads {shown.get(name, name)}", modality=shown.get(name, name),
            text="cross-attention, MLP", names=sketch.names(model.cross[f"{target}_{name}"]))
        for name in sources
    )  # fmt: skip
    depth = f"x {model.config.depth} blocks each"
    panel(sketch, f"cross.{target}", f"{lane} stream", (Group(rows=rows, repeat=depth),), column="backbone",
          lanes=(lane,), modality=lane)  # fmt: skip
    sketch.connect(f"proj.{target}", f"cross.{target}", lane)
    for name in sources:
        sketch.connect(f"proj.{name}", f"cross.{target}.{name}", shown.get(name, name))
    memory = model.memory[target]
    names, width = sketch.names(memory), 2 * model.config.width
    sketch.add(Node(key=f"memory.{target}", kind="head", column="head", lanes=(lane,), title="memory transformer",
                    lines=(sketch.size(names), f"[B, T, {width}] -> [B, {width}]"), names=names,
                    modality=lane))  # fmt: skip
    sketch.connect(f"cross.{target}", f"memory.{target}", lane)
