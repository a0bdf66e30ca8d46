"""PDFs where a command takes files: each page is a picture; without a rasteriser, a line that says what to install."""

import importlib.util
import json

import numpy
import pytest
from outcome import is_one_line
from PIL import Image

from polymodal.cli.inputs import expand, is_input
from polymodal.data import pdf

COLOURS = ("red", "green", "blue")
needs_rasteriser = pytest.mark.skipif(
    not any(importlib.util.find_spec(each) for each in pdf.RASTERISERS), reason="nothing that reads PDFs is installed"
)


@pytest.fixture
def report(tmp_path):
    """Three pages of 144 x 72 points, each of one colour."""
    pages = [Image.new("RGB", (200, 100), colour) for colour in COLOURS]
    path = tmp_path / "report.pdf"
    pages[0].save(path, "PDF", save_all=True, append_images=pages[1:], resolution=100)
    return path


def test_without_a_rasteriser_the_message_says_what_to_install(polymodal, tiny, report, monkeypatch):
    monkeypatch.setattr(pdf, "RASTERISERS", ("no_such_package",))
    outcome = polymodal("ask", report, "what?", "-m", tiny)
    assert is_one_line(outcome) and "report.pdf is a PDF" in outcome.err and "pip install pypdfium2" in outcome.err


@needs_rasteriser
def test_pages_are_pictures(report):
    found = [each.open().picture for each in expand([str(report)])]
    assert [each.size for each in found] == [(300, 150)] * 3, "150 dots an inch"
    means = [numpy.asarray(each).mean((0, 1)) for each in found]
    assert all(int(mean.argmax()) == index for index, mean in enumerate(means))
    assert [each.name for each in expand([f"{report}#page=2-3"])] == [f"{report}#page=2", f"{report}#page=3"]
    assert len(expand([f"{report}#page=1"])) == 1
    assert is_input(f"{report}#page=1") and not is_input("chapter.pdf#page=1"), "a label may look like a page"


@needs_rasteriser
def test_ask_about_a_document_and_about_each_page(polymodal, tiny, report):
    options = ("-m", tiny, "--max-tokens", 2)
    assert polymodal("ask", report, "what?", *options, "--json").json["tokens"]["image"] == 3 * 4
    rows = [json.loads(line) for line in polymodal("ask", report, "what?", *options, "--jsonl").out.splitlines()]
    assert [row["file"] for row in rows] == [f"{report}#page={number}" for number in (1, 2, 3)]


@needs_rasteriser
def test_pages_that_are_not_there_and_damage(polymodal, tiny, report, tmp_path):
    for pages in ("4", "0", "3-2", "2-9"):
        outcome = polymodal("ask", f"{report}#page={pages}", "what?", "-m", tiny)
        assert is_one_line(outcome) and "from 1 to 3" in outcome.err
    (tmp_path / "cut.pdf").write_bytes(report.read_bytes()[:60])
    outcome = polymodal("ask", tmp_path / "cut.pdf", "what?", "-m", tiny)
    assert is_one_line(outcome) and "cut.pdf cannot be read as a PDF" in outcome.err


@needs_rasteriser
def test_a_page_of_any_size_stays_within_bounds(report, monkeypatch):
    monkeypatch.setattr(pdf, "MAX_PIXELS", 5_000)
    (first, *_) = expand([str(report)])
    width, height = first.open().picture.size
    assert width * height <= 5_200 and width > height


def test_a_file_of_that_name_comes_first(report, photo):
    odd = report.with_name("report.pdf#page=1")
    odd.write_bytes(photo.read_bytes())
    (found,) = expand([str(odd)])
    assert found.source == odd and found.open().picture.size == (60, 40)
