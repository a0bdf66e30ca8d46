"""What people give where a command takes files: folders, patterns, standard input, data: URLs, many files at once."""

import base64
import io
import json
import sys
from pathlib import Path

import numpy
import pytest
from outcome import is_one_line

from polymodal.cli.inputs import expand, is_input


@pytest.fixture
def album(tmp_path, photo, sound):
    """A folder with three media, one of them below, and with what is none: a text, a hidden file."""
    folder = tmp_path / "album"
    (folder / "more").mkdir(parents=True)
    for name, source in (("a.jpg", photo), ("b.wav", sound), ("more/c [1].jpg", photo), (".hidden.jpg", photo)):
        (folder / name).write_bytes(source.read_bytes())
    (folder / "notes.txt").write_text("no picture")
    return folder


def pipe_in(monkeypatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def names(words):
    return [each.name for each in expand(map(str, words))]


def test_a_folder_is_the_media_in_it(album):
    found = [str(album / name) for name in ("a.jpg", "b.wav", "more/c [1].jpg")]
    assert names([album]) == found
    assert names([f"{album}/**/*.jpg"]) == [found[0], found[2]]
    assert names([found[2]]) == [found[2]], "a file whose name could be a pattern is that file"
    assert names([f"file://{album}/a.jpg"]) == [found[0]]


def test_home_folder(album, monkeypatch):
    monkeypatch.setenv("HOME", str(album))
    assert expand(["~/a.jpg"])[0].open().picture.size == (60, 40)


def test_ask_about_each_file_of_a_folder(polymodal, tiny, album):
    options = ("-m", tiny, "--max-tokens", 3)
    rows = [json.loads(line) for line in polymodal("ask", album, "what?", *options, "--jsonl").out.splitlines()]
    assert [row["file"] for row in rows] == names([album])
    assert rows[0]["tokens"]["image"] == 4 and rows[1]["tokens"]["audio"] == 4
    alone = polymodal("ask", album / "a.jpg", "what?", *options, "--json").json
    assert rows[0]["answer"] == alone["answer"] and rows[0].keys() == {"file", *alone}
    words = polymodal("ask", album, "what?", *options)
    assert words.code == 0 and all(f"{name}: " in words.out for name in names([album]))
    together = polymodal("ask", album / "a.jpg", album / "b.wav", "what?", *options, "--json").json
    assert together["tokens"]["image"] == together["tokens"]["audio"] == 4, "named files are asked about together"
    each = polymodal("ask", album / "a.jpg", album / "b.wav", "what?", *options, "--each", "--json").json
    assert [row["answer"] for row in each] == [row["answer"] for row in rows[:2]]


def test_a_bad_file_costs_itself_alone(polymodal, tiny, album):
    (album / "a.jpg").write_bytes((album / "a.jpg").read_bytes()[:400])
    for command in (["ask", album, "what?", "--max-tokens", 1], ["classify", album, "-l", "cat", "-l", "dog"]):
        outcome = polymodal(*command, "-m", tiny, "--jsonl")
        rows = [json.loads(line) for line in outcome.out.splitlines()]
        assert outcome.code == 2 and [("error" in row) for row in rows] == [True, False, False]
        assert outcome.err.count("polymodal: ") == 1 and "a.jpg" in outcome.err
    outcome = polymodal("embed", album, "-m", tiny, "--json")
    assert outcome.code == 2 and [each["file"] for each in outcome.json["items"]] == names([album])[1:]


def test_transcribe_takes_the_recordings_of_a_folder(polymodal, tiny, album):
    rows = polymodal("transcribe", album, "-m", tiny, "--json").json
    assert [row["file"] for row in rows] == [str(album / "b.wav")]
    (album / "b.wav").unlink()
    outcome = polymodal("transcribe", album, "-m", tiny)
    assert is_one_line(outcome) and "holds no recordings or videos" in outcome.err


def test_classify_a_folder(polymodal, tiny, album):
    outcome = polymodal("classify", album, "cat", "dog", "-m", tiny)
    assert outcome.code == 0 and [line.split("  ")[-1] for line in outcome.out.splitlines()] == names([album])


def test_standard_input(polymodal, tiny, photo, monkeypatch):
    options = ("-m", tiny, "--max-tokens", 3, "--json")
    expected = polymodal("ask", photo, "what?", *options).json
    pipe_in(monkeypatch, photo.read_bytes())
    found = polymodal("ask", "-", "what?", *options).json
    assert found["answer"] == expected["answer"] and found["tokens"] == expected["tokens"]
    pipe_in(monkeypatch, photo.read_bytes())
    assert polymodal("classify", "-", "cat", "dog", "-m", tiny, "--json").json["file"] == "-"
    pipe_in(monkeypatch, b"")
    assert is_one_line(outcome := polymodal("ask", "-", "what?", *options)) and "standard input is empty" in outcome.err


def test_data_urls(polymodal, tiny, photo):
    url = "data:image/jpeg;base64," + base64.b64encode(photo.read_bytes()).decode()
    options = ("-m", tiny, "--max-tokens", 3, "--json")
    expected = polymodal("ask", photo, "what?", *options).json
    assert polymodal("ask", url, "what?", *options).json["answer"] == expected["answer"]
    outcome = polymodal("ask", url[:-5] + "!", "what?", *options)
    assert is_one_line(outcome) and "base64" in outcome.err and len(outcome.err) < 200
    assert expand(["data:text/plain,two%20words"])[0].open().text == "two words"


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("https://example.org/a/cat.jpg?size=2", "https://example.org/a/cat.jpg?size=2 is a URL"),
        ("*.jpg", "no file matches *.jpg"),
        ("empty", "the folder empty holds no "),
        ("concat:a|b", "there is no file concat:a|b"),
    ],
)
def test_what_is_refused(polymodal, tiny, tmp_path, monkeypatch, word, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for command in (["ask", word, "what?"], ["transcribe", word], ["embed", word], ["classify", word, "a", "b"]):
        outcome = polymodal(*command, "-m", tiny)
        assert is_one_line(outcome) and told in outcome.err, outcome


def test_a_folder_in_the_place_of_the_question(polymodal, album):
    outcome = polymodal("ask", album)
    assert is_one_line(outcome) and "the question is missing" in outcome.err


@pytest.mark.parametrize("question", ["这是什么动物？请详细描述它。" * 7, "m" * 300, "what is *this*?"])
def test_questions_that_are_no_file_names(polymodal, tiny, question):
    assert polymodal("ask", question, "-m", tiny, "--max-tokens", 1).code == 0


def test_labels_are_not_inputs(photo):
    assert is_input(str(photo)) and is_input("-") and is_input("https://a.org/b.jpg")
    assert not any(map(is_input, ("cat", "is it a cat?", "猫" * 100, "a: b")))


def test_vectors_with_their_names(polymodal, tiny, album, tmp_path):
    arguments = ("embed", album, "-t", "a cat", "--text", "ein Hund", "-m", tiny)
    rows = polymodal(*arguments, "--json").json["items"]
    keys = [{name: row[name] for name in row if name != "vector"} for row in rows]
    assert keys == [*({"file": name} for name in names([album])), {"text": "a cat"}, {"text": "ein Hund"}]
    vectors = numpy.array([row["vector"] for row in rows], "float32")

    outcome = polymodal(*arguments, "--out", tmp_path / "all.npy")
    assert outcome.code == 0 and outcome.out.startswith("wrote ") and "5 vectors of 32 numbers" in outcome.out
    assert numpy.allclose(numpy.load(tmp_path / "all.npy"), vectors, atol=1e-6)
    assert json.loads((tmp_path / "all.names.json").read_text()) == keys

    assert polymodal(*arguments, "--out", tmp_path / "all.jsonl").code == 0
    lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    assert numpy.allclose([each.pop("vector") for each in lines], vectors, atol=1e-6) and lines == keys
    printed = [json.loads(line) for line in polymodal(*arguments, "--jsonl").out.splitlines()]
    assert [{**key, "vector": 0} for key in keys] == [{**each, "vector": 0} for each in printed]


def test_parquet(polymodal, tiny, photo, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    assert polymodal("embed", photo, "--text", "a cat", "-m", tiny, "--out", tmp_path / "all.parquet").code == 0
    table = parquet.read_table(tmp_path / "all.parquet").to_pydict()
    assert table["file"] == [str(photo), None] and table["text"] == [None, "a cat"]
    assert numpy.array(table["vector"]).shape == (2, 32)


@pytest.mark.parametrize(("name", "told"), [("x.parquet", "needs pyarrow"), ("x.csv", ".npy, .jsonl, .parquet")])
def test_where_vectors_cannot_go(polymodal, photo, tmp_path, monkeypatch, name, told):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = polymodal("embed", photo, "-m", "nothing", "--out", tmp_path / name)
    assert is_one_line(outcome) and told in outcome.err


def test_many_vectors_are_shown_by_their_nearest(polymodal, tiny, photo):
    several = polymodal("embed", photo, "-t", "a", "-m", tiny).out
    assert "similarity" in several and "1.000" in several
    many = polymodal("embed", photo, *(f"--text=text {i}" for i in range(9)), "-m", tiny).out
    assert "nearest" in many and all(f"text {i}" in many for i in range(9)) and "10 vectors of 32" in many


def test_embed_of_nothing(polymodal, tiny):
    assert is_one_line(outcome := polymodal("embed", "-m", tiny)) and "files or texts" in outcome.err


def test_a_recording_that_cannot_be_classified_names_a_system_that_can_compare_it(polymodal, sound, tmp_path):
    path = tmp_path / "pictures.py"
    path.write_text(
        f"import dataclasses, sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nimport tiny_system\n"
        "from polymodal.errors import PromptError\n"
        "def only_pictures(items, labels=()):\n"
        "    raise PromptError(f'this model embeds pictures and text; found {items[0].modality}')\n"
        "def load(variant, options):\n"
        "    parts = tiny_system.load(variant, options)\n"
        "    return dataclasses.replace(parts, score=only_pictures, embed=only_pictures)\n"
        "SYSTEM = dataclasses.replace(tiny_system.SYSTEM, id='pictures', load=load)\n"
    )
    for words in (("classify", sound, "a", "b"), ("embed", sound)):
        outcome = polymodal(*words, "-m", path)
        assert outcome.code == 2 and outcome.err.endswith(
            "found audio; try embed with imagebind, whose vectors compare audio with text\n"
        )
