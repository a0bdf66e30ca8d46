"""`search`: results, the index beside the cache, the contact sheet, mistakes; with `mini`, that it finds the cat."""

import html.parser
import os
import webbrowser
from pathlib import Path

import numpy
import pytest
from outcome import is_one_line
from PIL import Image

import polymodal as pm
from headline_folders import captured
from polymodal.check import randomise
from polymodal.nn.lora import apply_lora, lora_state

EVIL = '<img src=x onerror=alert(1)> "it\'s" & [red]\u202egpj.jpg'


@pytest.fixture
def album(tmp_path, photo, sound):
    """Two pictures, one of a name that means harm, and a recording."""
    folder = tmp_path / "album"
    (folder / "more").mkdir(parents=True)
    pixels = numpy.random.default_rng(1).integers(0, 255, (40, 60, 3), dtype=numpy.uint8)
    Image.fromarray(pixels).save(folder / EVIL)
    (folder / "more" / "a.jpg").write_bytes(photo.read_bytes())
    (folder / "b.wav").write_bytes(sound.read_bytes())
    for path in folder.rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny CLIP as it is published."""
    return captured("clip", tmp_path_factory.mktemp("clip") / "folder")


def test_results_and_json(polymodal, tiny, album, photo, tmp_path):
    first = polymodal("search", album, "a cat", "-m", tiny, "--json")
    found = first.json
    assert first.code == 0 and first.err == ""
    assert found.keys() == {
        "model", "query", "like", "results", "indexed", "changed", "skipped", "left_out", "index", "seconds"
    }  # fmt: skip
    assert found["model"] == "tiny:toy" and found["indexed"] == found["changed"] == 3
    scores = [each["score"] for each in found["results"]]
    assert scores == sorted(scores, reverse=True) and len(scores) == 3
    assert (tmp_path / "cache" / "search") in Path(found["index"]).parents
    words = polymodal("search", album, "a cat", "-m", tiny)
    assert [line.split("  ")[-1] for line in words.out.splitlines()] == [each["file"] for each in found["results"]]
    assert "0 new or changed" in words.err and found["index"] in words.err
    near = polymodal("search", album, "--like", photo, "-m", tiny, "--limit", 1, "--json").json["results"]
    assert [each["file"] for each in near] == [str(album / "more" / "a.jpg")]
    assert near[0]["score"] == pytest.approx(1, abs=1e-5)


def test_a_published_dual_encoder(polymodal, clip, album, photo):
    found = polymodal("search", album, "--like", photo, "-m", clip, "--json").json
    assert found["left_out"] == {"audio": 1} and found["indexed"] == 2
    model = pm.load(clip)
    vectors = model.embed([photo, album / EVIL])
    assert found["results"][1]["score"] == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)
    words = polymodal("search", album, "a cat", "-m", clip)
    assert words.code == 0 and "1 of audio left out" in words.err


def test_each_model_and_state_of_its_weights_has_an_index_of_its_own(tiny, album, tmp_path, monkeypatch):
    monkeypatch.setenv("POLYMODAL_HOME", str(tmp_path / "cache"))
    model, again = pm.load(tiny), pm.load(tiny)
    file = pm.index(model, album).file
    assert pm.index(again, f"{album}/more/..").file == file != pm.index(model, album / "more").file
    assert pm.index(pm.load(f"{tiny}:other"), album).file != file
    next(iter(again.parameters())).data.mul_(1.01)
    assert pm.index(again, album).file != file
    apply_lora(again.module, ("backbone",), rank=2, alpha=8)
    for name, tensor in lora_state(again.module).items():
        tensor.copy_(randomise.tensor(name, tensor.shape))
    again.save_adapter(tmp_path / "adapter")
    model.attach(tmp_path / "adapter")
    assert pm.index(model, album).file != file
    model.detach()
    assert pm.index(model, album).file == file


def test_a_bad_file_is_named_and_the_others_are_found(polymodal, tiny, album):
    (album / "more" / "a.jpg").write_bytes(b"\xff\xd8\xff")
    for _ in range(2):
        outcome = polymodal("search", album, "a cat", "-m", tiny)
        assert outcome.code == 2 and len(outcome.out.splitlines()) == 2
        assert outcome.err.count("polymodal: ") == 1 and "a.jpg" in outcome.err
    assert [each["file"] for each in polymodal("search", album, "a cat", "-m", tiny, "--json").json["skipped"]] == [
        str(album / "more" / "a.jpg")
    ]


class Page(html.parser.HTMLParser):
    """The tags of a page, with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words += data


def test_the_contact_sheet_is_one_file_and_names_are_text(polymodal, tiny, album, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    sheet = tmp_path / "sheet.html"
    outcome = polymodal("search", album, "<b>a cat</b>", "-m", tiny, "--html", sheet, "--open")
    assert outcome.code == 0 and opened == [sheet.as_uri()]
    page = Page(sheet.read_text(encoding="utf-8"))
    assert EVIL in page.words and "<b>a cat</b>" in page.words
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 2 and all(each["src"].startswith("data:image/jpeg;base64,") for each in pictures)
    assert not [each for _, attributes in page.tags for each in attributes if each.startswith("on")]
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "b", "iframe"})
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert len(links) == 3 and all(link.startswith("file:///") for link in links)
    polymodal("search", album, "a cat", "-m", tiny, "--open")
    assert opened[1].startswith((tmp_path / "cache" / "search").as_uri()) and opened[1].endswith(".html")
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    outcome = polymodal("search", album, "a cat", "-m", tiny, "--open")
    assert outcome.code == 2 and outcome.out and "no browser" in outcome.err


def test_mistakes_are_one_line_before_a_model_is_loaded(polymodal, album, photo, tmp_path):
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    for arguments, word in (
        ([tmp_path / "nowhere", "cat"], "no folder"),
        ([photo, "cat"], "is a file"),
        ([album], "neither"),
        ([album, " "], "neither"),
        ([album, "cat", "--like", photo], "both"),
        ([album, "--like", tmp_path / "no.jpg"], "no.jpg"),
        ([album, "--like", album], "one file"),
        ([album, "cat", "--html", tmp_path / "no" / "x.html"], "no folder"),
        ([album, "cat", "--limit", 0], "limit"),
    ):
        outcome = polymodal("search", *arguments, "-m", "no-such-model")
        assert is_one_line(outcome) and word in outcome.err, (arguments, outcome)


def test_a_folder_without_media_and_a_model_that_does_not_embed(polymodal, tiny, tmp_path):
    (tmp_path / "nothing").mkdir()
    outcome = polymodal("search", tmp_path / "nothing", "cat", "-m", tiny)
    assert is_one_line(outcome) and "holds no pictures" in outcome.err


def test_ctrl_c_says_that_the_work_is_kept(polymodal, tiny, album, monkeypatch):
    from polymodal.pipelines.media_index import MediaIndex

    def stop(self, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr(MediaIndex, "update", stop)
    outcome = polymodal("search", album, "cat", "-m", tiny)
    assert outcome.code == 130 and "is kept" in outcome.err and outcome.out == ""


@pytest.mark.assets
def test_mini_finds_the_cat(tmp_path):
    cat = Path(__file__).parents[2] / "examples" / "cat.jpg"

    model = pm.load("mini")
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "x.jpg").write_bytes(cat.read_bytes())
    for name, colour in (("red", "red"), ("grey", "grey")):
        Image.new("RGB", (64, 64), colour).save(folder / f"{name}.png")
    index = pm.index(model, folder, tmp_path / "x.sqlite")
    index.update()
    hits = index.search("a cat")
    assert hits[0].path.name == "x.jpg" and hits[0].score > hits[1].score + 0.1
