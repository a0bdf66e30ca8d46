"""A user's mistakes: each gives one clear line and exit code 2, and costs nothing."""

import base64
import errno
import json
import struct
import zlib
from pathlib import Path

import pytest
from outcome import is_one_line

from polymodal import systems


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header promises far more pixels than it holds."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    data = b"IDAT" + zlib.compress(b"\0" * 1000)
    body = struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    return b"\x89PNG\r\n\x1a\n" + chunk + body


def bad_files(folder: Path, photo: Path, sound: Path) -> dict[str, tuple[Path, str]]:
    """Kind of damage -> (file, a word that its message must hold)."""
    made = {
        "empty picture": ("empty.jpg", b"", "empty"),
        "empty sound": ("empty.wav", b"", "empty"),
        "text named .jpg": ("page.jpg", b"<html>not found</html>", "plain text"),
        "text named .wav": ("page.wav", b"not found", "plain text"),
        "truncated picture": ("cut.jpg", photo.read_bytes()[:600], "cut.jpg"),
        "truncated sound": ("cut.wav", sound.read_bytes()[:3000], "cut.wav"),
        "sound header only": ("header.wav", sound.read_bytes()[:20], "header.wav"),
        "huge picture": ("bomb.png", png_claiming(60_000, 60_000), "3,600,000,000 pixels"),
        "unknown format": ("noise.bin", bytes(range(128, 256)) * 9, "noise.bin"),
        "a document": ("talk.pdf", b"%PDF-1.7\n" + bytes(range(128, 256)), "PDF"),
        "an archive": ("talk.docx", b"PK\x03\x04" + bytes(range(128, 256)), "a ZIP archive or an office document"),
        "damaged video": ("clip.mp4", b"\0\0\0\x18ftypmp42" + b"\xff" * 200, "clip.mp4"),
    }
    for name, data, _ in made.values():
        (folder / name).write_bytes(data)
    return {kind: (folder / name, word) for kind, (name, _, word) in made.items()}


KINDS = (
    "empty picture",
    "empty sound",
    "text named .jpg",
    "text named .wav",
    "truncated picture",
    "truncated sound",
    "sound header only",
    "huge picture",
    "unknown format",
    "a document",
    "an archive",
    "damaged video",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("command", ["ask", "transcribe", "classify", "embed"])
def test_bad_media(polymodal, tiny, tmp_path, photo, sound, kind, command):
    path, word = bad_files(tmp_path, photo, sound)[kind]
    rest = {"ask": ["what?"], "classify": ["cat", "dog"]}.get(command, [])
    outcome = polymodal(command, path, *rest, "--model", tiny)
    assert is_one_line(outcome), outcome
    assert word in outcome.err and path.name in outcome.err
    assert "0x" not in outcome.err, "addresses of memory have no place in a message"


HALF_A_PICTURE = base64.b64encode(png_claiming(64, 64)[:50] + bytes(300_000)).decode()


@pytest.mark.parametrize(
    ("url", "word"),
    [
        (f"data:image/png;base64,{HALF_A_PICTURE}", "damaged"),
        (f"data:image/png;base64,@@@{HALF_A_PICTURE}", "not valid base64"),
        (f"data:image/png;base64{HALF_A_PICTURE}", "expected data:TYPE;base64,DATA"),
        (f"data:audio/wav;base64,{base64.b64encode(bytes(range(128, 256)) * 3000).decode()}", "not a picture"),
        ("data:image/png;base64,", "empty"),
        ("data:", "expected data:TYPE;base64,DATA"),
    ],
    ids=["half", "not base64", "no comma", "noise", "empty", "nothing"],
)
@pytest.mark.parametrize("command", ["ask", "transcribe", "classify", "embed"])
def test_a_damaged_data_url(polymodal, tiny, command, url, word):
    """One line, which does not hold the data."""
    rest = {"ask": ["what?"], "classify": ["cat", "dog"]}.get(command, [])
    outcome = polymodal(command, url, *rest, "--model", tiny)
    assert is_one_line(outcome) and len(outcome.err) < 300, outcome.err[:2000]
    assert word in outcome.err or command == "transcribe"
    outcome = polymodal(command, url, url, *rest, "--jsonl", "--model", tiny)
    assert outcome.code == 2 and len(outcome.err) < 600 and len(outcome.out) < 800


def test_a_data_url_without_a_question(polymodal, tiny):
    outcome = polymodal("ask", f"data:image/png;base64,{HALF_A_PICTURE}", "--model", tiny)
    assert is_one_line(outcome) and "question is missing" in outcome.err and len(outcome.err) < 300


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ask"], ["question"]),
        (["ask", "missing.jpg", "what?"], ["missing.jpg"]),
        (["ask", "https://example.org/cat.jpg", "what?"], ["cat.jpg"]),
        (["ask", "what?", "--model", "mni"], ["mni", "did you mean 'mini'"]),
        (["ask", "what?", "--model", "./nothing.py"], ["nothing.py"]),
        (["ask", "what?", "--dtype", "float33"], ["float33", "float32, bfloat16, float16"]),
        (["ask", "what?", "--dtype", "float8_e4m3fn"], ["float8_e4m3fn", "quantise='int8'"]),
        (["ask", "what?", "--device", "gpu"], ["unknown device 'gpu'", "cuda"]),
        (["chat", "--device", "xpu:7"], ["no device 'xpu:7' here", "device='cpu'"]),
        (["ask", "what?", "--quantise", "int2"], ["int2", "int8, int4"]),
        (["ask", "what?", "--max-tokens", "0"], ["'--max-tokens': expected", "see polymodal ask --help"]),
        (["ask", "what?", "--temperature", "hot"], ["--temperature"]),
        (["ask", "what?", "--modle", "mini"], ["--modle", "--model"]),
        (["show", "mini", "--jsn"], ["--jsn", "--json"]),
        (["show"], ["missing argument 'MODEL...'; see polymodal show --help"]),
        (["ask", "missing.jpg"], ["there is no file missing.jpg", "the question is missing"]),
        (["pull"], ["polymodal pull mini"]),
        (["pull", "mni"], ["did you mean 'mini'"]),
        (["systms"], ["Did you mean 'systems'? See polymodal --help"]),
        (["serve", "--api-key-file", "missing.txt"], ["there is no file of keys missing.txt"]),
        (["transcribe", "missing.wav"], ["missing.wav"]),
        (["classify", "missing.jpg", "cat"], ["two labels"]),
    ],
)
def test_wrong_words(polymodal, arguments, words):
    outcome = polymodal(*arguments)
    assert is_one_line(outcome), outcome
    assert all(word in outcome.err for word in words), outcome.err


def test_a_picture_is_not_transcribed_after_a_long_wait(polymodal, photo):
    """It is refused before the model is loaded: there is none of this name."""
    outcome = polymodal("transcribe", photo, "--model", "./nothing.py")
    assert (
        is_one_line(outcome)
        and "photo.jpg" in outcome.err
        and "has no sound to transcribe; it is a picture of 60 x 40" in outcome.err
    )


def test_question_left_out(polymodal, photo):
    outcome = polymodal("ask", photo)
    assert is_one_line(outcome) and "question is missing" in outcome.err


def test_variant_names_the_nearest(polymodal, tiny):
    outcome = polymodal("show", f"{tiny}:oter")
    assert is_one_line(outcome) and "unknown variant 'oter' of tiny; did you mean 'other'" in outcome.err


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("SYSTEM = 3", "SYSTEM = System"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("x = (", "line 1"),
        ("a = 1\nb = a / 0", "line 2"),
    ],
)
def test_own_system_with_a_fault(polymodal, tmp_path, text, word):
    path = tmp_path / "mine.py"
    path.write_text(text)
    outcome = polymodal("show", path)
    assert is_one_line(outcome) and word in outcome.err and "mine.py" in outcome.err


def test_drawing_to_a_folder_that_is_not_there(polymodal, tiny, tmp_path):
    outcome = polymodal("show", tiny, "--svg", tmp_path / "no" / "x.svg")
    assert is_one_line(outcome) and "x.svg" in outcome.err


def test_folder_that_is_no_model(polymodal, tmp_path):
    (tmp_path / "other").mkdir()
    outcome = polymodal("ask", "what?", "--model", tmp_path / "other")
    assert is_one_line(outcome) and "polymodal.json" in outcome.err


def test_adapter_that_is_none(polymodal, tmp_path, tiny):
    for folder, word in ((tmp_path / "nowhere", "nowhere"), (tmp_path, "adapter_config.json")):
        outcome = polymodal("ask", "what?", "--model", tiny, "--adapter", folder)
        assert is_one_line(outcome) and word in outcome.err


@pytest.mark.parametrize("record", ["", "[]", json.dumps({"format": 9, "system": "x", "variant": "y", "sha256": "z"})])
def test_folder_with_a_damaged_record(polymodal, tmp_path, record):
    (tmp_path / "polymodal.json").write_text(record)
    outcome = polymodal("ask", "what?", "--model", tmp_path)
    assert is_one_line(outcome) and "polymodal.json" in outcome.err


def test_folder_may_not_name_code(polymodal, tmp_path, tiny):
    """A saved folder is data from anywhere: the system it names must be one of ours, never a file to run."""
    record = {"format": 1, "system": tiny, "variant": "toy", "sha256": "0"}
    (tmp_path / "polymodal.json").write_text(json.dumps(record))
    outcome = polymodal("ask", "what?", "--model", tmp_path)
    assert is_one_line(outcome) and "unknown model" in outcome.err


def test_a_defect_of_ours_is_not_blamed_on_the_user(polymodal, monkeypatch):

    monkeypatch.setattr(systems, "ids", lambda: [][0])
    outcome = polymodal("systems")
    assert outcome.code == 1 and "please report it" in outcome.err and "Traceback" not in outcome.err


@pytest.mark.parametrize("problem", [MemoryError(), RuntimeError("[x] DefaultCPUAllocator: can't allocate memory: 9")])
def test_too_little_memory_is_no_defect(polymodal, monkeypatch, problem):

    def full():
        raise problem

    monkeypatch.setattr(systems, "ids", full)
    outcome = polymodal("systems")
    assert outcome.code == 1 and "not enough memory" in outcome.err and "defect" not in outcome.err


def test_closed_pipe_is_silent(polymodal, monkeypatch):

    def closed():
        raise BrokenPipeError(errno.EPIPE, "closed")

    monkeypatch.setattr(systems, "ids", closed)
    outcome = polymodal("systems")
    assert outcome.code == 1 and outcome.err == ""


@pytest.mark.parametrize("letters", [86, 150, 255, 256, 5000])
def test_a_question_or_name_of_any_length_is_no_file(polymodal, tiny, photo, letters):
    question = "猫" * min(letters, 150)  # three bytes each; a file's name has 255 at most
    assert polymodal("ask", photo, question, "--model", tiny, "--max-tokens", "1").code == 0
    outcome = polymodal("show", "m" * letters)
    assert is_one_line(outcome) and "unknown model" in outcome.err
    outcome = polymodal("ask", "what?", "--model", "./" + "m" * letters)
    assert is_one_line(outcome) and "there is no folder" in outcome.err


@pytest.mark.filterwarnings("default::UserWarning:polymodal")
def test_a_name_of_the_catalogue_wins_over_a_folder(polymodal, tmp_path, monkeypatch):
    (tmp_path / "clip").mkdir()
    monkeypatch.chdir(tmp_path)
    outcome = polymodal("show", "clip")
    assert outcome.code == 0 and "CLIP" in outcome.out
    assert outcome.err == "polymodal: note: 'clip' is clip:b-32 of the catalogue; the one here is meant by './clip'\n"
    outcome = polymodal("show", "./clip")
    assert is_one_line(outcome) and "holds no weights" in outcome.err
    outcome = polymodal("show", "clap")
    assert is_one_line(outcome) and "did you mean 'clip'" in outcome.err
