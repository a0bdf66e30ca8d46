"""The set-up scripts: what counts as a wrong environment, lower bounds for users, exact versions for tests."""

import sys
import tomllib
from functools import cache
from itertools import chain

import pytest
from project_source import ROOT

sys.path.insert(0, str(ROOT / "scripts"))
import check_environment
import install
import pins


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


@cache
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def listed(*extras: str) -> list[tuple[str, str]]:
    """(name, lower bound) of what the project file asks for."""
    wanted = chain(project()["dependencies"], *(project()["optional-dependencies"][each] for each in extras))
    return [tuple(each.split(">=")) for each in wanted]


def test_project_file_has_lower_bounds_only():
    every = [*project()["dependencies"], *chain(*project()["optional-dependencies"].values())]
    assert all(">=" in each and "==" not in each and "<" not in each for each in every), every


def test_run_time_needs_no_oracle():
    names = {name.split("[")[0] for name, _ in listed()}
    oracles = {"transformers", "timm", "diffusers", "peft", "sentencepiece", "torchvision", "torchaudio", "torchcodec"}
    assert not names & oracles


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())


def test_everything_that_tests_use_is_pinned_and_torch_is_not():
    pinned = pins.read(pins.PINS.read_text(encoding="utf-8"))
    for name, bound in listed("dev", "parity", "generate", "serve"):
        if name == "torch":
            continue
        assert pins.normal(name) in pinned, f"{name} has no pin; run `make pins`"
        assert numbers(pinned[pins.normal(name)]) >= numbers(bound), f"{name} is pinned below its lower bound"
    assert not [name for name in pinned if pins.BY_MACHINE.match(name) or name in check_environment.BANNED]


def test_only_tests_are_pinned():
    keep = ROOT / "keep-torch.txt"
    user = install.options(pinned=False, newest=False, keep=keep)
    newest = install.options(pinned=False, newest=True, keep=keep)
    tests = install.options(pinned=True, newest=False, keep=keep)
    assert all(str(keep) in each for each in (user, newest, tests)), "an install may not replace torch"
    assert str(pins.PINS) in tests and str(pins.PINS) not in [*user, *newest]


def test_pins_are_exact():
    assert pins.read("# why\n\nPyYAML==6.0.4\n") == {"pyyaml": "6.0.4"}
    for line in ("numpy>=2", "numpy", "numpy==2.*", "torch @ file:///torch.whl"):
        with pytest.raises(SystemExit, match="expected NAME==VERSION"):
            pins.read(line)


def test_what_changed_is_a_table():
    rows = pins.changes({"a": "1.0", "gone": "2", "same": "3"}, {"a": "1.1", "new-one": "4", "same": "3"})
    assert rows == [("a", "1.0", "1.1"), ("gone", "2", "-"), ("new-one", "-", "4")]
    shown = pins.table(rows).splitlines()
    assert [line.split() for line in shown if "---" not in line][1:] == [list(row) for row in rows]
    assert "exactly" in pins.table([])


def test_a_header_stays_when_pins_are_written_anew():
    assert pins.header("# one\n# two\nnumpy==2.0\n# three\n") == "# one\n# two\n"
    assert pins.header(pins.PINS.read_text(encoding="utf-8")).count("\n") > 3
