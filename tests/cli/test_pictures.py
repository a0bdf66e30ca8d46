"""Pictures of architectures: every system draws, nothing overlaps or runs over, and what the record says is in it."""

import io
import re
from dataclasses import replace
from functools import cache
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image, ImageFont

import polymodal as pm
from polymodal import systems
from polymodal.checkpoints.record import Part
from polymodal.diagram.describe import describe
from polymodal.diagram.fonts import width, wrap
from polymodal.diagram.graph import Graph
from polymodal.diagram.layout import scene_of
from polymodal.diagram.png import to_png
from polymodal.diagram.scene import Box, Line, Scene, Text
from polymodal.diagram.svg import to_svg
from polymodal.diagram.theme import COLOURS

OTHERS = ("albef:vqa", "albef:nlvr2", "blip:vqa-base", "blip:itm-base-coco", "blip-2:flan-t5-xl", "blip-2:itm-vit-g",
          "beit:base", "vilt:mlm", "vilt:coco", "mult:iemocap", "mini:hears", "flava:codec", "vit:b-16-in21k",
          "clip:rn50", "emu3:gen", "llama-adapter-v2:lora-bias-7b")  # fmt: skip
STAGED = (("llava-1.5", "instruct-lora"), ("cogvlm", "caption"), ("next-gpt", "decode"), ("emu3", "pretrain"))
SVG = "{http://www.w3.org/2000/svg}"


@cache
def graph(address: str, stage: str | None = None) -> Graph:
    return describe(*pm.look(address), stage)


@cache
def scene(address: str, stage: str | None = None) -> Scene:
    return scene_of([graph(address, stage)])


def of_role(scene: Scene, *roles: str) -> list[Box]:
    return [shape for shape in scene.shapes if isinstance(shape, Box) and shape.role in roles]


def check_scene(scene: Scene) -> None:
    """Boxes apart, words inside their boxes, arrows outside of others' boxes, everything on the page."""
    page = Box(x=0, y=0, width=scene.width, height=scene.height)
    nodes = of_role(scene, "node")
    for index, node in enumerate(nodes):
        assert page.holds(node), node
        assert not [other for other in nodes[index + 1 :] if node.overlaps(other)], node
    for kind in ("row", "cell", "branch"):
        inner = of_role(scene, kind)
        for index, box in enumerate(inner):
            assert any(node.holds(box) for node in nodes), box
            assert not [other for other in inner[index + 1 :] if box.overlaps(other)], box
    texts = [shape for shape in scene.shapes if isinstance(shape, Text)]
    holders = of_role(scene, "node", "row", "cell", "branch")
    for text in texts:
        assert page.holds(text.box), text
        around = [box for box in holders if box.overlaps(text.box)]
        assert not around or min(around, key=lambda box: box.width * box.height).holds(text.box, 0.6), text
    for index, text in enumerate(texts):
        assert not [other for other in texts[index + 1 :] if text.box.overlaps(other.box)], text
    for line in scene.shapes:
        if isinstance(line, Line) and line.arrow:
            check_arrow(line, nodes)


def check_arrow(line: Line, nodes: list[Box]) -> None:
    """From one node to another, through no third."""
    start, end = line.points[0], line.points[-1]
    near = [node for node in nodes if touches(node, *start) or touches(node, *end)]
    for (x1, y1), (x2, y2) in zip(line.points, line.points[1:], strict=False):
        assert abs(x1 - x2) < 0.01 or abs(y1 - y2) < 0.01, "a slanted line"
        way = Box(x=min(x1, x2), y=min(y1, y2), width=max(abs(x1 - x2), 0.1), height=max(abs(y1 - y2), 0.1))
        assert not [node.key for node in nodes if node not in near and node.overlaps(way)], line.key


def touches(node: Box, x: float, y: float) -> bool:
    return node.x - 1 <= x <= node.right + 1 and node.y - 1 <= y <= node.bottom + 1


@pytest.mark.parametrize("address", [*systems.ids(), *OTHERS])
def test_every_system_draws(address: str) -> None:
    check_scene(scene(address))
    system, _ = pm.look(address)
    shown = {(node.kind, node.title) for node in graph(address).nodes}
    assert {("output", name) for name in system.outputs} <= shown
    if address in systems.ids():
        assert {("input", name) for name in system.inputs} <= shown
    keys = {edge.source for edge in graph(address).edges} | {edge.target for edge in graph(address).edges}
    alone = [node.key for node in graph(address).nodes if node.key not in keys and not node.groups and not node.cells]
    assert alone == [node.key for node in graph(address).nodes if node.lines == ("other variants",)], "unconnected"


@pytest.mark.parametrize(("address", "stage"), STAGED)
def test_stages_draw(address: str, stage: str) -> None:
    check_scene(scene(address, stage))


@pytest.mark.parametrize("id", ["albef", "blip", "blip-2", "beit", "vilt", "mult", "vit", "clip", "emu3"])
def test_every_output_of_the_record_comes_out_of_some_variant(id: str) -> None:
    graphs = [graph(address) for address in (id, *OTHERS) if address == id or address.startswith(f"{id}:")]
    made = {edge.target for each in graphs for edge in each.edges}
    assert {f"output.{name}" for name in systems.get(id).outputs} <= made


def edges(address: str) -> set[tuple[str, str]]:
    return {(edge.source, edge.target) for edge in graph(address).edges}


def words(address: str, key: str) -> str:
    nodes = {node.key: " ".join((node.title, *node.lines)) for node in graph(address).nodes}
    rows = {row.key: f"{row.title} {row.text}" for row in graph(address).rows()}
    return (nodes | rows | {cell.key: cell.text for node in graph(address).nodes for cell in node.cells})[key]


def test_the_types_of_fusion_look_different() -> None:
    assert ("connector.image", "backbone.cross") in edges("flamingo")  # A: past the sequence
    assert "cell.image" not in {target for _, target in edges("flamingo")}
    attention = next(row for row in graph("cogvlm").rows() if row.key == "backbone.attn")  # B: experts side by side
    assert [branch.text for branch in attention.branches] == ["text: q k v o", "image: q k v o"]
    assert words("mplug-owl2", "backbone.attn").endswith("shared: q, o")
    assert ("connector.image", "backbone.prefix") in edges("llama-adapter-v2")
    assert ("connector.image", "cell.image") in edges("llava-1.5")  # C: at placeholders
    assert words("llava-1.5", "cell.image") == "image x 576 features"
    embed = next(row for row in graph("chameleon").rows() if row.key == "backbone.embed")  # D: one vocabulary
    assert [branch.text for branch in embed.branches] == ["text: 57344 ids", "image: 8192 ids"]
    assert ("tokenizer", "cell.text") in edges("chameleon") and words("chameleon", "cell.image") == "image x 1024 ids"


def test_numbers_come_from_the_module() -> None:
    assert "32064" in words("llava-1.5", "backbone.head") and "32064" in words("llava-1.5", "embedding")
    assert words("idefics", "backbone.cross").endswith("every 4th block")
    assert "32 heads" in words("llava-1.5", "backbone.attn") and "11008" in words("llava-1.5", "backbone.mlp")
    assert "12 heads, 2 KV heads" in words("qwen2-vl", "backbone.attn")


def test_what_was_missing_once() -> None:
    assert {("encoder.image.proj", "space"), ("encoder.text.proj", "space"), ("space", "output.similarity")} <= edges(
        "clip"
    )
    next_gpt = edges("next-gpt")
    assert {("input.video", "encoder.image"), ("encoder.audio", "connector.image"), ("connector.image", "cell.video"),
            ("backbone", "projector.video"), ("projector.video", "generator.video"),
            ("generator.video", "output.video")} <= next_gpt  # fmt: skip
    assert "24 signal tokens" in words("next-gpt", "projector.video")
    assert ("generator.image", "output.image") in edges("emu3")
    assert {("match", "output.match"), ("space", "output.similarity"), ("words", "output.words")} <= edges("albef")
    assert ("tokenizer", "connector.image") in edges("instructblip")  # the instruction enters the Q-Former
    assert ("encoder.audio", "tokenizer") in edges("mini")  # speech becomes words


def test_a_stage_colours_what_it_trains() -> None:
    def states(address: str, stage: str) -> dict[str, str]:
        picture = graph(address, stage)
        return {node.key: node.state for node in picture.nodes} | {row.key: row.state for row in picture.rows()}

    align, instruct, lora = (states("llava-1.5", name) for name in ("align", "instruct", "instruct-lora"))
    assert (align["connector.image"], align["backbone"], align["encoder.image"]) == ("trained", "frozen", "frozen")
    assert (instruct["connector.image"], instruct["backbone"], instruct["embedding"]) == ("trained",) * 3
    assert (lora["backbone.attn"], lora["backbone.head"]) == ("lora", "frozen")
    assert graph("llava-1.5", "align").stage == "stage align: trains 21.0M parameters, 0.30 %"
    mixture = states("flamingo", "mixture")
    assert (mixture["backbone.cross"], mixture["backbone.attn"], mixture["backbone"]) == ("trained", "frozen", "partly")
    branches = next(row for row in graph("cogvlm", "caption").rows() if row.key == "backbone.mlp").branches
    assert [branch.state for branch in branches] == ["frozen", "trained"]
    assert states("next-gpt", "decode")["generator.image"] == "frozen"

    def fill(stage: str, key: str) -> str:
        return next(box.fill for box in of_role(scene("llava-1.5", stage), "node", "row") if box.key == key)

    assert fill("align", "backbone") == "state-frozen" and fill("instruct", "backbone") == "state-trained"
    assert COLOURS["state-frozen"] != COLOURS["state-trained"]


def test_an_svg_stands_alone_and_reads_in_the_dark() -> None:
    document = to_svg(scene("llava-1.5"))
    root = ElementTree.fromstring(document)
    assert root[0].tag == f"{SVG}title" and "llava-1.5:7b" in (root[0].text or "")
    assert root[1].tag == f"{SVG}desc" and "linear, GELU, linear -> image x 576 features" in (root[1].text or "")
    assert "prefers-color-scheme: dark" in document
    assert not re.findall(r"(?:href|src|url)\s*[=(]\s*[\"']?(?!#)", document), "something from outside"
    texts = list(root.iter(f"{SVG}text"))
    assert {"image", "tokenizer", "input embeddings", "x 32"} <= {each.text for each in texts}
    shapes = [shape for shape in scene("llava-1.5").shapes if isinstance(shape, Text)]
    assert [float(each.get("textLength", 0)) for each in texts] == [round(each.width, 1) for each in shapes]
    classes = {name for each in root.iter() for name in (each.get("class") or "").split()}
    assert all(f".{name}{{" in document for name in classes), "a colour without its dark one"


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two colours."""

    def luminance(colour: str) -> float:
        parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
        red, green, blue = (x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4 for x in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_words_stand_out_from_what_is_behind_them(mode: int) -> None:
    behind = [
        name for name in COLOURS if name.startswith(("kind-", "state-", "tint-")) or name in ("page", "plain", "row")
    ]
    for ink in ("ink", "muted"):
        for name in behind:
            assert contrast(COLOURS[ink][mode], COLOURS[name][mode]) >= 4.5, (ink, name)
    for state in ("trained", "partly", "lora", "frozen"):
        assert contrast(COLOURS[f"ink-{state}"][mode], COLOURS[f"state-{state}"][mode]) >= 4.5, state


def test_a_png_is_the_same_picture_at_twice_the_size() -> None:
    picture = scene("llava-1.5")
    with Image.open(io.BytesIO(to_png(picture))) as image:
        assert image.size == (round(2 * picture.width), round(2 * picture.height))
        node = next(box for box in of_role(picture, "node") if box.key == "connector.image")
        corner = image.convert("RGB").getpixel((round(2 * (node.right - 8)), round(2 * (node.bottom - 8))))
    assert "#{:02x}{:02x}{:02x}".format(*corner) == COLOURS["kind-connector"][0]


def test_texts_are_measured_with_the_font_that_draws_them() -> None:
    for words_ in ("self-attention", "[N, 3, 336, 336]", "WWWW iiii", "-> [B, T, 4096]"):
        assert width(words_, 12) >= ImageFont.load_default(24).getlength(words_) / 2 - 0.5
    assert wrap("a long name that needs several lines", 12, 80) == ["a long name", "that needs", "several lines"]
    assert all(width(line, 12) <= 50 for line in wrap("Donaudampfschifffahrtsgesellschaft " * 2, 12, 50))
    assert width("\u4e2d\u6587", 10) == 20


def test_words_of_any_length_and_script_fit() -> None:
    system, variant = pm.look("llava-1.5")
    part = system.drawing(variant)[1]
    long = replace(part, name="\u591a\u6a21\u6001\u6a21\u578b" * 9, output="Donaudampfschifffahrtsgesellschaft" * 3)
    parts = (*system.drawing(variant)[:1], long, *system.drawing(variant)[2:])
    named = replace(system, aliases=("x" * 300,), headline="words " * 90, parts=lambda variant: parts)
    check_scene(scene_of([describe(named, variant)]))


def test_several_systems_in_one_picture() -> None:
    both = scene_of([graph("clip"), graph("llava-1.5"), graph("flamingo")])
    check_scene(both)
    texts = {shape.text for shape in both.shapes if isinstance(shape, Text)}
    assert {"clip:b-32", "llava-1.5:7b", "flamingo:3b"} <= texts
    assert 0.6 < both.width / both.height < 3.2


def test_the_picture_of_the_readme_is_what_the_command_draws(pytestconfig) -> None:
    """By its words: coordinates depend on the release of Pillow, whose font they are measured with."""
    root = ElementTree.fromstring((pytestconfig.rootpath / "docs/fusion.svg").read_text(encoding="utf-8"))
    picture = scene_of([graph(id) for id in ("flamingo", "cogvlm", "llava-1.5", "chameleon")])
    assert [each.text for each in root.iter(f"{SVG}text")] == [
        shape.text for shape in picture.shapes if isinstance(shape, Text)
    ]


def test_a_module_of_no_known_kind_is_drawn_from_its_parts() -> None:
    class Own(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ears, self.bridge, self.mind = (torch.nn.Linear(4, 4) for _ in range(3))

    system, variant = pm.look("bayling")
    parts = (
        Part(slot="encoder", name="ears", prefix="ears", input="[N, 4]", output="[N, 4]", modality="audio"),
        Part(slot="connector", name="bridge", prefix="bridge", input="[N, 4]", output="[N, 4]", modality="audio"),
        Part(slot="backbone", name="mind", prefix="mind", input="[B, T, 4]", output="[B, T, V]"),
        Part(slot="generator", name="voice", prefix="", input="ids", output="sound", modality="audio"),
    )
    own = replace(system, build=lambda variant: Own(), formats=(), parts=lambda variant: parts, recipe=(),
                  inputs=("audio", "text"), outputs=("text", "audio"))  # fmt: skip
    picture = describe(own, replace(variant, config=None))
    check_scene(scene_of([picture]))
    edges_ = {(edge.source, edge.target) for edge in picture.edges}
    assert edges_ == {("input.audio", "part.0"), ("part.0", "part.1"), ("part.1", "part.2"), ("input.text", "part.2"),
                     ("part.2", "part.3"), ("part.3", "output.audio"), ("part.2", "output.text")}  # fmt: skip
    bare = describe(replace(own, parts=lambda variant: ()), replace(variant, config=None))
    check_scene(scene_of([bare]))
    assert "Own" in {node.title for node in bare.nodes}


def test_an_agent_calls_its_tools(pytestconfig) -> None:
    picture = describe(*pm.look(pytestconfig.rootpath / "tests/cli/agent_system.py"))
    check_scene(scene_of([picture]))
    edges_ = {(edge.source, edge.target) for edge in picture.edges}
    assert {("input.text", "part.0"), ("part.0", "tool.0"), ("part.0", "tool.1"), ("part.0", "output.text")} <= edges_


def test_show_writes_what_the_ending_says(polymodal, tiny, tmp_path) -> None:
    for option in ("--svg", "--png"):
        for ending, start in ((".svg", b"<svg"), (".PNG", b"\x89PNG")):
            target = tmp_path / f"picture{ending}"
            outcome = polymodal("show", tiny, option, target)
            assert outcome.code == 0 and "wrote" in outcome.out and target.read_bytes().startswith(start)
    both = polymodal("show", tiny, tiny, "--svg", tmp_path / "a.svg", "--png", tmp_path / "a.png", "--stage", "align")
    assert both.code == 0 and (tmp_path / "a.svg").exists() and (tmp_path / "a.png").exists()
    assert "stage align: trains 2.1k parameters" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_a_picture_on_standard_output(polymodal, tiny) -> None:
    assert polymodal("show", tiny, "--svg", "-").out.startswith("<svg")


@pytest.mark.parametrize(
    ("arguments", "words_"),
    [
        (("--svg", "picture.jpg"), "--svg picture.jpg: pictures are .svg or .png files, found '.jpg'"),
        (("--png", "picture"), "found no ending"),
        (("--svg", "x.svg", "--stage", "alien"), "unknown training stage 'alien' of tiny; did you mean 'align'?"),
        (("--stage", "align"), "--stage colours a picture"),
        (("--svg", "-", "--json"), "--json and a picture cannot both go to stdout"),
    ],
)
def test_mistakes_are_one_line(polymodal, tiny, tmp_path, monkeypatch, arguments, words_) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = polymodal("show", tiny, *arguments)
    assert outcome.code == 2 and words_ in outcome.err and outcome.err.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_json_of_several_systems_is_a_list(polymodal, tiny) -> None:
    assert polymodal("show", tiny, "--json").json["id"] == "tiny"
    assert [each["id"] for each in polymodal("show", tiny, tiny, "--json").json] == ["tiny", "tiny"]


LETTERS = {"N": 1, "B": 2, "items": 2, "frames": 3, "F": 3, "C": 3}
"""Sizes of the named axes in the shapes of the records; [B, N, ...] are B * N items."""


def sizes(shape: str) -> tuple[int, ...]:
    """ "codes [N, 32, 32]" -> (1, 32, 32)"""
    names = re.sub(r"^[a-z_ ]*\[|\]$", "", shape).split(", ")
    return tuple(LETTERS[name] if name in LETTERS else int(name) for name in names)


@pytest.mark.parametrize(
    "id", ["albef", "blip-2", "chameleon", "cogvlm", "flamingo", "kosmos-2", "llama-adapter-v2", "llava-1.5",
           "video-llama"]
)  # fmt: skip
def test_the_shapes_of_the_records_are_those_of_the_modules(id: str) -> None:
    system = systems.get(id)
    with torch.device("meta"):
        module = system.module(system.variants[0])
    seen = 0
    for part in system.drawing(system.variants[0]):
        if part.slot in ("encoder", "connector") and part.prefix and part.modality != "audio":
            values = torch.empty(sizes(part.input), device="meta")
            with torch.no_grad():
                features = module.get_submodule(part.prefix)(values)
            assert tuple(features.shape) == sizes(part.output), part.name
            assert part.tokens in (None, features.shape[-2]) or part.name.startswith("VQ-GAN"), part.name
            seen += 1
    assert seen
