"""Whole commands with names that are not UTF-8, outputs that lack letters, and a reader that has gone."""

import json
import os
import subprocess
import sys
from pathlib import Path

TINY = str(Path(__file__).with_name("tiny_system.py"))


def run(*arguments, encoding: str = "utf-8:strict", **options):
    environment = os.environ | {"PYTHONIOENCODING": encoding, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "polymodal", *map(os.fsencode, arguments)]
    return subprocess.run(command, capture_output="stdout" not in options, env=environment, **options)


def test_a_name_that_is_not_utf8(photo):
    odd = os.fsencode(photo.parent) + b"/caf\xe9 [edited].jpg"
    Path(os.fsdecode(odd)).write_bytes(photo.read_bytes())
    done = run("classify", odd, photo, "-l", b"caf\xe9", "-l", "dog", "-m", TINY)
    assert done.returncode == 0 and odd in done.stdout, done.stderr
    found = json.loads(run("classify", odd, "cat", "dog", "-m", TINY, "--json").stdout)
    assert os.fsencode(found["file"]) == odd
    assert run("ask", b"caf\xe9?", "-m", TINY, "--max-tokens", "1").returncode == 0


def test_an_output_that_lacks_letters(photo):
    done = run("classify", photo, "猫", "犬", "-m", TINY, encoding="latin-1")
    assert done.returncode == 0 and b"\\u732b" in done.stdout
    found = json.loads(run("classify", photo, "猫", "犬", "-m", TINY, "--json", encoding="latin-1").stdout)
    assert {each["label"] for each in found["labels"]} == {"猫", "犬"}


def test_bytes_typed_in_another_encoding():
    done = run("chat", TINY, "--max-tokens", "1", input=b"caf\xe9?\n")
    assert done.returncode == 0 and b"Error" not in done.stderr


def test_a_reader_that_has_gone():
    command = f"'{sys.executable}' -m polymodal systems --json | head -c 1"
    done = subprocess.run(["sh", "-c", command], capture_output=True)
    assert done.stderr == b""
