"""Standard input and output as machines have them: few letters, a full disk, closed, bytes that are not UTF-8."""

import io
import json
import os
import subprocess
import sys

import pytest

from polymodal.cli.app import run
from polymodal.cli.check import render
from polymodal.cli.output import console
from polymodal.cli.streams import open_streams

NOT_UTF8 = os.fsdecode(b"caf\xe9.jpg")


@pytest.fixture
def output(monkeypatch):
    """Puts standard output on bytes of an encoding; gives the bytes."""

    def place(encoding: str, errors: str = "strict") -> io.BytesIO:
        data = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(data, encoding=encoding, errors=errors))
        return data

    return place


@pytest.mark.parametrize(
    ("encoding", "text", "written"),
    [
        ("utf-8", NOT_UTF8, b"caf\xe9.jpg"),
        ("utf-8", "猫 " + NOT_UTF8, "猫 caf".encode() + b"\xe9.jpg"),
        ("latin-1", "é 猫", b"\xe9 \\u732b"),
        ("ascii", "é 🐱", b"\\xe9 \\U0001f431"),
        ("ascii", "猫" + NOT_UTF8, b"\\u732bcaf\xe9.jpg"),
        ("ascii", "\udce9猫", b"\xe9\\u732b"),
    ],
)
def test_no_letter_is_lost(output, encoding, text, written):
    data = output(encoding)
    open_streams()
    sys.stdout.write(text)
    sys.stdout.flush()
    assert data.getvalue() == written


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1", "ascii", "utf-16"])
def test_json_stays_json(output, encoding):
    from polymodal.cli.output import print_json

    data = output(encoding)
    open_streams()
    print_json({"file": NOT_UTF8, "answer": "猫 🐱 é"})
    assert json.loads(data.getvalue().decode(encoding)) == {"file": NOT_UTF8, "answer": "猫 🐱 é"}


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_tables_and_drawings_in_a_narrow_encoding(output, encoding):
    for arguments in (["systems"], ["show", "clip"]):
        data = output(encoding)
        open_streams()
        assert run(arguments) == 0 and b"CLIP" in data.getvalue().upper()


def test_other_refusals_of_the_machine_name_the_file(monkeypatch, capsys):
    from polymodal import systems

    def read_only() -> list[str]:
        raise OSError(30, "Read-only file system", "/mnt/x")

    monkeypatch.setattr(systems, "ids", read_only)
    assert run(["systems"]) == 1
    assert capsys.readouterr().err == "polymodal: /mnt/x: Read-only file system\n"


@pytest.mark.parametrize(
    ("redirect", "code", "said"),
    [
        (">&-", 1, b"polymodal: standard output is closed; nothing could be printed\n"),
        (">/dev/full", 1, b"polymodal: cannot write the output: No space left on device\n"),
        (">&- 2>&-", 1, b""),
        ("<&- >/dev/null", 0, b""),
        ("2>&- >/dev/null", 0, b""),
        ("| true; exit ${PIPESTATUS[0]}", None, b""),  # 0 or 1: the reader may be gone before or after
    ],
)
def test_closed_streams(redirect, code, said):
    command = f"'{sys.executable}' -m polymodal --version {redirect}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert done.stderr == said and (done.returncode == code or (code is None and done.returncode in (0, 1)))


def test_brackets_and_colons_in_names_are_kept(capsys):
    from rich.table import Table

    from polymodal.cli.output import console

    table = Table("photo [edited] :cat:.jpg")
    table.add_row("[bold]x[/]")
    console().print(table)
    out = capsys.readouterr().out
    assert "photo [edited] :cat:.jpg" in out and "[bold]x[/]" in out


def test_shapes_are_drawn_with_their_brackets(polymodal):
    outcome = polymodal("show", "mini")
    assert "[N, 3, 224, 224]" in outcome.out and "\\[" not in outcome.out


def test_brackets_of_a_check_are_printed_as_they_are(capsys):
    found = {"ok": True, "evidence": "conditions of image [2, 5, 768]"}
    console().print(render({"id": "tiny[1]", "headline": found}))
    printed = capsys.readouterr().out
    assert "image [2, 5, 768]" in printed and "tiny[1]" in printed and "\\" not in printed
