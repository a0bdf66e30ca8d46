"""The set-up scripts: what counts as a wrong environment, and lower bounds only in the project file."""

import sys
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from project_source import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import check_environment


@pytest.mark.parametrize(
    ("names", "gpu", "wrong"),
    [
        ({"torch", "numpy"}, False, 0),
        ({"torch", "nvidia-cublas-cu12", "triton"}, False, 1),
        ({"torch", "nvidia-cublas-cu12", "triton"}, True, 0),
        ({"torch", "torchvision"}, False, 1),
        ({"torch", "torchvision", "cuda-toolkit"}, False, 2),
    ],
)
def test_what_was_dragged_in_is_named(names, gpu, wrong):
    assert len(check_environment.complaints(names, gpu)) == wrong


def test_project_file_has_lower_bounds_only():
    project = tomllib.loads(Path(ROOT / "pyproject.toml").read_text())["project"]
    listed = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    assert all(">=" in each and "==" not in each and "<" not in each for each in listed), listed


def test_run_time_needs_no_oracle():
    project = tomllib.loads(Path(ROOT / "pyproject.toml").read_text())["project"]
    names = {each.split(">=")[0].split("[")[0] for each in project["dependencies"]}
    assert not names & {"transformers", "timm", "diffusers", "peft", "torchvision", "torchaudio", "torchcodec"}
