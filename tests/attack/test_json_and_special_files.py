"""Files that are none, and JSON that bites: refused in one line, at once."""

import json
import os
import socket
from pathlib import Path

import pytest

from polymodal.errors import MediaError, WeightsError
from polymodal.files import MAX_JSON_DEPTH, open_regular, parse_json, read_json


@pytest.fixture
def special(tmp_path: Path) -> dict[str, Path]:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link to a fifo").symlink_to(tmp_path / "fifo")
    (tmp_path / "link to a device").symlink_to("/dev/zero")
    (tmp_path / "link to itself").symlink_to(tmp_path / "link to itself")
    (tmp_path / "link to nothing").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(tmp_path)  # the address of a socket has 108 bytes at most
        server.bind("socket")
        os.chdir(here)
    return {path.name: path for path in tmp_path.iterdir()} | {"missing": tmp_path / "missing"}


def test_only_regular_files_are_opened(special: dict[str, Path], tmp_path: Path) -> None:
    for name, path in special.items():
        with pytest.raises(WeightsError) as refusal:
            open_regular(path)
        assert name in str(refusal.value) and "\n" not in str(refusal.value)
    (tmp_path / "plain").write_bytes(b"12345")
    (tmp_path / "link to plain").symlink_to(tmp_path / "plain")
    with open_regular(tmp_path / "link to plain", 5) as file:
        assert file.read() == b"12345"
    with pytest.raises(MediaError, match=r"index .*plain has 5 bytes, the limit is 4"):
        open_regular(tmp_path / "plain", 4, MediaError, "index")
    with pytest.raises(WeightsError, match="cannot be opened"):
        open_regular(Path("a\0b"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[" * 100_000, "deeper than 64"),
        ("[" * 70 + "]" * 70, "deeper than 64"),
        ('{"a":' * 900 + "1" + "}" * 900, "deeper than 64"),
        ('{"a": NaN}', "NaN is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ("[1e999]", "larger than a float64"),
        ("9" * 5000, "a number of 5,000 digits"),
        (r'["\ud800"]', "not valid UTF-8"),
        (r'{"\udfff": 1}', "not valid UTF-8"),
        (b"\xff\xfe{}", "not valid UTF-8"),
        ("{", "damaged"),
        ("", "damaged"),
    ],
)
def test_json_that_bites(text: str | bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=why):
        parse_json(text, "config.json")
    (tmp_path / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(WeightsError, match=why):
        read_json(tmp_path / "config.json")


def test_json_as_deep_as_allowed_is_read() -> None:
    deep = "[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH
    assert parse_json(deep, "x") == json.loads(deep)
    assert parse_json('{"model_max_length": 1000000000000000019884624838656}', "x")["model_max_length"] > 1e29
