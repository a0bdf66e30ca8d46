"""Media as shapes without values: as torch joins them, and without what torch imports for it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from polymodal.generation.shapes import ShapesOnly
from tiny_folders import tiny

A, B = torch.empty(2, 3, 4, device="meta"), torch.empty(5, 3, 4, device="meta")
CASES = {
    "stack": lambda a, b: torch.stack([a, a, a]),
    "stack last": lambda a, b: torch.stack((a, a), dim=-1),
    "stack unequal": lambda a, b: torch.stack([a, b]),
    "stack beyond": lambda a, b: torch.stack([a, a], 5),
    "cat": lambda a, b: torch.cat([a, b, a]),
    "cat within": lambda a, b: torch.cat([a, a], -2),
    "cat unequal": lambda a, b: torch.cat([a, b], 1),
    "cat of other rank": lambda a, b: torch.cat([a, b[0]]),
    "ones_like": lambda a, b: torch.ones_like(a),
    "zeros_like of another dtype": lambda a, b: torch.zeros_like(a, dtype=torch.bool),
    "other dtypes": lambda a, b: torch.cat([a, b.half()]),
}


def outcome(run, a, b):
    try:
        made = run(a, b)
    except (RuntimeError, IndexError) as problem:
        return type(problem)
    return made.shape, made.dtype


@pytest.mark.parametrize("name", CASES)
def test_shapes_are_those_of_real_tensors(name: str) -> None:
    with ShapesOnly():
        found = outcome(CASES[name], A, B)
        real = outcome(CASES[name], torch.zeros(2, 3, 4), torch.zeros(5, 3, 4))
    assert found == real == outcome(CASES[name], torch.zeros(2, 3, 4), torch.zeros(5, 3, 4))


def test_values_stay_values() -> None:
    with ShapesOnly():
        assert torch.stack([torch.ones(2), torch.ones(2)]).sum() == 4


CHAT = """
import sys
import numpy
import polymodal as pm

for folder in sys.argv[1:]:
    picture = pm.image(numpy.zeros((40, 50, 3), numpy.uint8))
    pm.load(folder).chat(picture, "what?", max_tokens=2)
    assert "sympy" not in sys.modules, folder
print("none")
"""


def test_a_chat_about_a_picture_does_not_import_symbolic_mathematics(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("openflamingo", "mplug-owl2", "qwen2-vl", "fuyu-8b")]
    for folder in folders:
        folder.mkdir()
        tiny(folder.name, folder)
    done = subprocess.run([sys.executable, "-c", CHAT, *map(str, folders)], capture_output=True, text=True)
    assert done.stdout.strip() == "none", done.stderr[-600:]
