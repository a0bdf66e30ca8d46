"""Pictures of `MultimodalLM` and its subclasses: encoders, connectors, the input sequence, the backbone, generators.

The four types of fusion look different because the modules are: A features go past the sequence into the blocks, B rows
with a branch for each modality, C features at placeholders, D ids of one vocabulary before one embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby

from torch import nn

from polymodal.backbones.decoder import Decoder
from polymodal.backbones.encoder_decoder import EncoderDecoder
from polymodal.diagram.blocks import block_group
from polymodal.diagram.graph import Branch, Cell, Group, Node, Row
from polymodal.diagram.sketch import Sketch, shapes_of
from polymodal.fusion.prefix import RowPrompt
from polymodal.fusion.visibility import RowPictures
from polymodal.fusion.vocabulary import Spelling
from polymodal.generators.vq_codec import VQCodec
from polymodal.generators.vq_codec_3d import VideoCodec
from polymodal.models.discrete_token_lm import DiscreteTokenLM
from polymodal.models.imagebind_lm import SummedEmbeddingLM
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.picture_writing_lm import PictureWritingLM
from polymodal.models.signal_token_lm import SignalTokenLM
from polymodal.models.synchronized_lm import SynchronizedLM
from polymodal.models.visual_regression_lm import VisualRegressionLM


@dataclass(frozen=True, kw_only=True)
class Path:
    """How a modality enters.  key: whose encoder and connector it uses; beside: not one of the model's own inputs
    (videos that enter as images, speech that another model writes down)."""

    modality: str
    key: str
    beside: bool = False


def draw_language_model(sketch: Sketch, model: MultimodalLM) -> None:
    """Fills the sketch."""
    paths = modality_paths(sketch, model)
    sketch.lanes = [path.modality for path in paths] + ["text"]
    sketch.columns["backbone"] = "LLM backbone"
    discrete = isinstance(model, DiscreteTokenLM)
    if discrete:
        sketch.columns |= {"encoder": "codecs and tokenizer", "connector": "codes as ids"}
    elif any(path.key not in model.encoders or not isinstance(model.encoders[path.key], nn.Identity) for path in paths):
        sketch.columns["encoder"] = "modality encoders"
    else:
        sketch.columns["encoder"] = "tokenizer"
    if not paths:
        sketch.columns["connector"] = "embedding"
    for path in paths:
        sketch.input(path.modality)
    sketch.tokenizer(column="encoder")
    if not discrete:
        sketch.embedding(model.backbone.embed_tokens)
    draw_encoders(sketch, model, paths)
    connectors = draw_connectors(sketch, model, paths)
    draw_sequence(sketch, model, paths, connectors)
    draw_backbone(sketch, model, paths)
    if model.context is not None:
        slot = "prefix" if isinstance(model.context, RowPrompt) else "cross"
        seen = looked_at(model, paths)
        for connector in dict.fromkeys(connectors[path.modality] for path in seen):
            sketch.connect(connector, f"backbone.{slot}", seen[0].modality)
    draw_outputs(sketch, model)


def looked_at(model: MultimodalLM, paths: list[Path]) -> list[Path]:
    """The lanes that reach the backbone through its context alone."""
    return [path for path in paths if path.modality not in model.placeholders and path.modality in model.inputs]


def modality_paths(sketch: Sketch, model: MultimodalLM) -> list[Path]:
    """The lanes above the text's, neighbours sharing a connector or an encoder."""
    paths = [Path(modality=name, key=inputs.uses or name) for name, inputs in model.inputs.items()]
    known = {path.modality for path in paths} | {"text"}
    for name in sketch.system.inputs:
        if name not in known and name == "video" and "image" in model.encoders:
            paths.append(Path(modality=name, key="image", beside=True))
        elif name not in known and any(part.modality == name and not part.prefix for part in sketch.parts):
            paths.append(Path(modality=name, key=name, beside=True))
    order = {id(each): index for index, each in enumerate(dict.fromkeys(model.connectors.values()))}

    def rank(path: Path) -> tuple[int, int]:
        encoders = list(model.encoders)
        if path.key not in encoders:
            return len(order), 0
        return order[id(model.connectors[path.key])], encoders.index(path.key)

    over = looked_at(model, paths)  # above what stands in the sequence, which is in their way
    return [*sorted(over, key=rank), *sorted((path for path in paths if path not in over), key=rank)]


def draw_encoders(sketch: Sketch, model: MultimodalLM, paths: list[Path]) -> None:
    """One box for each encoder, beside all the lanes that use it; a picture without an encoder goes past."""
    for key, group in groupby(paths, key=lambda path: path.key):
        lanes = tuple(path.modality for path in group)
        if key not in model.encoders:
            draw_writer(sketch, key)
            continue
        encoder = model.encoders[key]
        if isinstance(encoder, nn.Identity):
            continue
        node = f"encoder.{key}"
        if isinstance(encoder, VQCodec | VideoCodec):
            names = tuple(name for name in sketch.names(encoder) if name not in sketch.names(encoder.decoder))
            part = sketch.part_of(encoder)
            shapes = () if part is None else shapes_of(part)
            sketch.add(Node(key=node, kind="encoder", column="encoder", lanes=lanes, modality=key, names=names,
                            title=type(encoder).__name__ if part is None else part.name,
                            lines=(sketch.size(names), *shapes)))  # fmt: skip
        else:
            sketch.module_node(encoder, key=node, kind="encoder", column="encoder", lanes=lanes, modality=key)
        for lane in lanes:
            sketch.connect(f"input.{lane}", node, lane)


def draw_writer(sketch: Sketch, modality: str) -> None:
    """A model beside this one that turns a modality into words (a speech recogniser)."""
    part = next(part for part in sketch.parts if part.modality == modality and not part.prefix)
    size = (f"{part.parameters / 1e6:.1f}M parameters",) if part.parameters else ()
    sketch.add(Node(key=f"encoder.{modality}", kind="encoder", column="encoder", lanes=(modality,), title=part.name,
                    lines=(*size, *shapes_of(part)), modality=modality, faint=True))  # fmt: skip
    sketch.connect(f"input.{modality}", f"encoder.{modality}", modality)
    sketch.connect(f"encoder.{modality}", "tokenizer", "text")


def draw_connectors(sketch: Sketch, model: MultimodalLM, paths: list[Path]) -> dict[str, str]:
    """One box for each connector; returns its key for each modality, or that of the encoder where nothing connects."""
    keys: dict[str, str] = {}
    own = [path for path in paths if path.key in model.encoders]
    for _, group in groupby(own, key=lambda path: id(model.connectors[path.key])):
        members = list(group)
        lanes = tuple(path.modality for path in members)
        connector, key = model.connectors[members[0].key], f"connector.{members[0].key}"
        lines = ["summed: one vector a row"] if isinstance(model, SummedEmbeddingLM) else []
        if len({path.key for path in members}) > 1:
            lines.insert(0, "the same for every modality")
        if isinstance(connector, Spelling):
            codes = len(connector.vocabulary.codecs[connector.codec].codes)
            lines.append(f"{codes} codes -> {codes} ids of the vocabulary")
            if connector.row_end is not None:
                lines.append("an end-of-row id behind every row")
            sketch.add(Node(key=key, kind="connector", column="connector", lanes=lanes, title="codes -> token ids",
                            lines=tuple(lines), modality=members[0].key))  # fmt: skip
        else:
            sketch.module_node(connector, key=key, kind="connector", column="connector", lanes=lanes, lines=lines,
                               modality=members[0].key)  # fmt: skip
        keys |= dict.fromkeys(lanes, key)
        for source in dict.fromkeys(path.key for path in members):
            through = f"encoder.{source}" if not isinstance(model.encoders[source], nn.Identity) else f"input.{source}"
            sketch.connect(through, key, source)
        if any("input_ids" in name for path in members for name in model.inputs[path.key].connector):
            sketch.connect("tokenizer", key, "text")
    return keys


def draw_sequence(sketch: Sketch, model: MultimodalLM, paths: list[Path], connectors: dict[str, str]) -> None:
    """What stands where in the input: text tokens, and for each item so many features (or ids)."""
    discrete, cells, entering = isinstance(model, DiscreteTokenLM), [], []
    if isinstance(model, SummedEmbeddingLM):  # one vector for all, drawn in the middle
        lane = paths[len(paths) // 2].modality
        cells.append(Cell(key="cell.sum", modality="other", lane=lane, text="sum of the items: 1 vector",
                          count=1))  # fmt: skip
        sketch.connect(connectors[lane], "cell.sum", "other")
        entering = [path.modality for path in paths]
    for path in paths if not cells else ():
        if path.modality in model.placeholders or (path.beside and path.key in model.placeholders):
            cells.append(Cell(key=f"cell.{path.modality}", modality=path.modality, lane=path.modality,
                              text=item_words(sketch, model, path), discrete=discrete,
                              count=None if path.beside else tokens_of(sketch, model, path)))  # fmt: skip
            entering.append(path.modality)
    marked = isinstance(model.context, nn.Module) and not isinstance(model.context, RowPrompt | RowPictures)
    text = "text, with a marker for each item" if marked else "text"
    cells.append(Cell(key="cell.text", modality="text", lane="text", text=text, discrete=True))
    width = model.backbone.config.width
    title, shape = ("ids", "[B, T]") if discrete else ("input embeddings", f"[B, T, {width}]")
    sketch.add(Node(key="sequence", kind="sequence", column="sequence", lanes=(*entering, "text"), title=title,
                    lines=(shape,), cells=tuple(cells)))  # fmt: skip
    for modality in entering if not isinstance(model, SummedEmbeddingLM) else ():
        sketch.connect(connectors[modality], f"cell.{modality}", modality)
    sketch.connect("tokenizer" if discrete else "embedding", "cell.text", "text")
    sketch.connect("sequence", "backbone", "text")


def item_words(sketch: Sketch, model: MultimodalLM, path: Path) -> str:
    """ "image x 576": how many positions one item takes."""
    count = tokens_of(sketch, model, path)
    if path.beside:
        return f"{path.modality}: frames as images"
    unit = "ids" if isinstance(model, DiscreteTokenLM) else "vector" if count == 1 else "features"
    return f"{path.modality} x {'n' if count is None else count} {unit}"


def tokens_of(sketch: Sketch, model: MultimodalLM, path: Path) -> int | None:
    """How many positions an item takes, None where that depends on the item."""
    part = sketch.part_of(model.connectors[path.key]) or sketch.part_of(model.encoders[path.key])
    return None if part is None else part.tokens


def draw_backbone(sketch: Sketch, model: MultimodalLM, paths: list[Path]) -> None:
    """The backbone with its embedding (type D), its blocks and its head."""
    backbone, seen = model.backbone, [*looked_at(model, paths), *paths]
    source = seen[0].modality if seen else "image"
    part, names = sketch.part_of(backbone), sketch.names(backbone)
    groups: list[Group] = []
    vocabulary = vocabulary_of(model)
    if isinstance(model, DiscreteTokenLM):
        table = sketch.names(backbone.embed_tokens)
        rows = backbone.embed_tokens.weight.shape
        groups.append(Group(rows=(Row(key="backbone.embed", title="one embedding for all ids", names=table,
                                      text=f"{rows[0]} ids -> {rows[1]}", branches=vocabulary),)))  # fmt: skip
    if isinstance(backbone, EncoderDecoder):
        reads = block_group("backbone.encoder", backbone.encoder.blocks, sketch.parameters)
        writes = block_group("backbone", backbone.decoder.blocks, sketch.parameters, source="text")
        groups += [replace(reads, repeat=f"encoder of the prompt, {reads.repeat}"),
                   replace(writes, repeat=f"decoder of the answer, {writes.repeat}")]  # fmt: skip
        blocks = len(backbone.encoder.blocks) + len(backbone.decoder.blocks)
    else:
        assert isinstance(backbone, Decoder)
        groups.append(block_group("backbone", backbone.blocks, sketch.parameters, source))
        blocks = len(backbone.blocks)
    groups.append(Group(rows=(head_row(sketch, model, vocabulary),)))
    shape = f"{blocks} blocks of width {backbone.config.width}"
    size = f"{sketch.size(names)}, {shape}"
    title = "decoder" if part is None or part.name == shape else part.name
    sketch.add(Node(key="backbone", kind="backbone", column="backbone", lanes=tuple(sketch.lanes), names=names,
                    title=title, lines=(size,), groups=tuple(groups)))  # fmt: skip


def head_row(sketch: Sketch, model: MultimodalLM, vocabulary: tuple[Branch, ...]) -> Row:
    """Hidden states to logits over the vocabulary."""
    backbone = model.backbone
    tied = backbone.config.tied
    names = sketch.names(backbone.embed_tokens) if tied else sketch.names(backbone.lm_head)
    text = f"{backbone.config.width} -> {backbone.config.vocab_size} logits"
    return Row(key="backbone.head", title="head, tied to the embedding" if tied else "head", text=text, names=names,
               branches=vocabulary)  # fmt: skip


def vocabulary_of(model: MultimodalLM) -> tuple[Branch, ...]:
    """Type D: whose the ids of the one vocabulary are, with their share of it."""
    if not isinstance(model, DiscreteTokenLM):
        return ()
    total = model.backbone.config.vocab_size
    counts = {name: len(each.vocabulary.codecs[each.codec].codes) for name, each in model.connectors.items()
              if isinstance(each, Spelling)}  # fmt: skip
    rest = total - sum(counts.values())
    parts = {"text": rest, **counts}
    return tuple(Branch(text=f"{name}: {count} ids", modality=name, share=count / total)
                 for name, count in parts.items())  # fmt: skip


def draw_outputs(sketch: Sketch, model: MultimodalLM) -> None:
    """Text, and what codecs or generators make."""
    if "text" in sketch.system.outputs:
        sketch.output("text", "backbone.head", "text", lines=("ids -> text",))
    if isinstance(model, DiscreteTokenLM | PictureWritingLM):
        draw_decoders(sketch, model)
    if isinstance(model, SignalTokenLM):
        draw_generators(sketch, model)
    elif not isinstance(model, SynchronizedLM | DiscreteTokenLM | VisualRegressionLM):
        draw_readers_of_words(sketch)
    if isinstance(model, SynchronizedLM):
        draw_generator(sketch, "image", model.painter, "the states before a picture")
    if isinstance(model, VisualRegressionLM):
        draw_generator(sketch, "image", model.regression, f"{model.count} vectors behind [IMG]")


def draw_decoders(sketch: Sketch, model: DiscreteTokenLM | PictureWritingLM) -> None:
    """Ids that the backbone writes, back to codes and pixels."""
    codecs = model.generators if isinstance(model, PictureWritingLM) else model.encoders
    for name, codec in codecs.items():
        if name not in sketch.system.outputs or not isinstance(codec, VQCodec | VideoCodec) or codec.decoder is None:
            continue
        sketch.columns["output connector"] = "ids as codes"
        sketch.add(Node(key=f"ids.{name}", kind="connector", column="output connector", lanes=(name,), modality=name,
                        title="token ids -> codes", lines=("[N, S] -> [N, h, w]",)))  # fmt: skip
        names = sketch.names(codec.decoder)
        sketch.add(Node(key=f"generator.{name}", kind="generator", column="generator", lanes=(name,), names=names,
                        title="decoder of the codec", lines=(sketch.size(names), "-> pixels [N, 3, H, W]"),
                        modality=name))  # fmt: skip
        sketch.connect("backbone.head", f"ids.{name}", name)
        sketch.connect(f"ids.{name}", f"generator.{name}", name)
        sketch.output(name, f"generator.{name}", name, name)


def draw_generators(sketch: Sketch, model: SignalTokenLM) -> None:
    """Hidden states of signal tokens -> output projectors -> generators."""
    for name, projector in model.projectors.items():
        draw_generator(sketch, name, projector, f"{len(model.signals[name])} signal tokens")


def draw_readers_of_words(sketch: Sketch) -> None:
    """Words of the answer -> generators, which lie outside the model."""
    for part in (each for each in sketch.parts if each.slot == "generator" and not each.prefix):
        name = part.modality
        if name not in sketch.lanes:
            sketch.lanes.insert(0, name)
        sketch.add(Node(key=f"generator.{name}", kind="generator", column="generator", lanes=(name,), title=part.name,
                        lines=(*shapes_of(part), "loaded beside the model"), modality=name, faint=True))  # fmt: skip
        sketch.connect("backbone.head", f"generator.{name}", name)
        sketch.output(name, f"generator.{name}", name, name)


def draw_generator(sketch: Sketch, name: str, projector: nn.Module, line: str) -> None:
    """Hidden states -> an output projector -> a generator, which lies outside the model."""
    sketch.module_node(projector, key=f"projector.{name}", kind="connector", column="output connector",
                       lanes=(name,), lines=(line,), modality=name)  # fmt: skip
    part = next((each for each in sketch.parts if each.slot == "generator" and each.modality == name), None)
    title = f"{name} diffusion" if part is None else part.name
    shapes = () if part is None else shapes_of(part)
    sketch.add(Node(key=f"generator.{name}", kind="generator", column="generator", lanes=(name,), title=title,
                    lines=(*shapes, "loaded beside the model"), modality=name, faint=True))  # fmt: skip
    sketch.connect("backbone", f"projector.{name}", name)
    sketch.connect(f"projector.{name}", f"generator.{name}", name)
    sketch.output(name, f"generator.{name}", name, name)
