"""`draw`: pictures of a tiny random Emu3, from Python and as files; what is refused."""

from pathlib import Path

import pytest
from outcome import is_one_line
from PIL import Image

import polymodal as pm
from headline_folders import captured
from polymodal.check import imagebind_lm
from polymodal.check.evidence.next_gpt import COUNTS, LAST
from polymodal.errors import ConfigError, PromptError
from polymodal.generation.sampling import SamplingOptions
from polymodal.pipelines.image_generation import DRAWN, paint
from polymodal.systems.emu3.checkpoint import NEGATIVE, POSITIVE
from polymodal.systems.next_gpt import SYSTEM


@pytest.fixture(scope="module")
def emu3(tmp_path_factory) -> Path:
    """The folder of a tiny random Emu3: pictures of 256 pixels at most, 4 pixels a code."""
    return captured("emu3", tmp_path_factory.mktemp("draw") / "emu3")


def test_a_model_writes_pictures(emu3) -> None:
    model, told = pm.load(emu3), []
    reply = model.draw("a cat", size=(8, 16), n=2, seed=5, step=lambda *where: told.append(where))
    first, second = reply.media["image"]
    assert first.size == second.size == (8, 16) and first.tobytes() != second.tobytes()
    assert model.draw("a cat", size=(8, 16), seed=6).media["image"][0].tobytes() == second.tobytes()
    ids = 2 * (4 * (2 + 1) + 3)
    assert told == [(number, ids) for number in range(1, ids + 1)] and reply.tokens["generated"] == ids
    assert model.draw("a cat").media["image"][0].size == (16, 16)  # the usual size
    # By hand, as Emu3's authors ask for a picture.
    painter = model._parts.paint
    prompts = [painter.layout.prompt(painter.tokenizer, text, (4, 2)) for text in ("a cat" + POSITIVE, NEGATIVE)]
    options = SamplingOptions(temperature=DRAWN.temperature, top_k=DRAWN.top_k, seed=5)
    (pixels,) = paint(model.module, prompts[:1], prompts[1:], [(4, 2)], painter.layout, options=options)
    assert painter.pixels(pixels).numpy().tobytes() == first.tobytes()


def test_what_cannot_be_drawn_is_refused(emu3) -> None:
    model = pm.load(emu3)
    for size in ((10, 16), (64, 64), (0, 4), (4, -4), (4,), "4x4", (4.0, 4.0)):
        with pytest.raises(ConfigError, match="size"):
            model.draw("a cat", size=size)
    with pytest.raises(ConfigError, match="n: expected 1 to 64"):
        model.draw("a cat", n=0)
    with pytest.raises(PromptError, match="from words alone"):
        model.draw("a cat", pm.image(Image.new("RGB", (8, 8))))
    with pytest.raises(ConfigError, match="context holds"):
        model.draw("a cat " * 4000)


def test_the_command_writes_files(polymodal, emu3, tmp_path) -> None:
    out = tmp_path / "cat.png"
    outcome = polymodal("draw", emu3, "a cat", "--out", out, "--size", "8x12", "--seed", 3)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", f"{out}: 8 x 12 pixels\n")
    found = polymodal("draw", emu3, "a cat", "--out", out, "--size", "8x12", "--seed", 2, "-n", 2, "--json").json
    assert list(found) == ["images", "model", "seed", "tokens", "seconds"]
    names = [tmp_path / "cat-1.png", tmp_path / "cat-2.png"]
    assert found["images"] == [{"file": str(name), "width": 8, "height": 12} for name in names]
    assert names[1].read_bytes() == out.read_bytes() != names[0].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("a cat", "--out", "cat.gif"), "expected a name ending in .png"),
        (("a cat", "--out", "nowhere/cat.png"), "there is no folder nowhere"),
        (("a cat", "--size", "big"), "expected WIDTHxHEIGHT"),
        (("a cat", "--size", "0x16"), "expected WIDTHxHEIGHT"),
        (("a cat", "--size", "9x16"), "sides in multiples of 4"),
        ((" ",), "the prompt is empty"),
    ],
)
def test_mistakes_cost_a_line(polymodal, emu3, arguments, told, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = polymodal("draw", emu3, *arguments)
    assert is_one_line(outcome) and told in outcome.err and not list(tmp_path.glob("*.*"))


def test_a_model_that_cannot_draw_says_so(polymodal, tiny) -> None:
    outcome = polymodal("draw", tiny, "a cat")
    assert is_one_line(outcome) and "cannot draw" in outcome.err


def test_a_model_that_needs_pipelines_says_so(polymodal, tmp_path) -> None:
    imagebind_lm.write_tiny_folder(tmp_path, SYSTEM, LAST, **COUNTS)
    outcome = polymodal("draw", tmp_path, "a cat")
    assert is_one_line(outcome) and "diffusion pipelines of your own" in outcome.err
    with pytest.raises(ConfigError, match="give pipelines="):
        pm.load(tmp_path).draw("a cat")
