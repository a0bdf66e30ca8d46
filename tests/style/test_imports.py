"""Imports go from a higher rank to a lower one, never sideways; importing the package loads nothing heavy."""

import ast
import subprocess
import sys

import pytest
from project_source import PACKAGE, Import, imports, module_name, parsed, python_files, short

RANKS = {
    "environment": 0,
    "cpu": 0,
    "errors": 0,
    "fields": 0,
    "files": 0,
    "html_page": 0,
    "printable": 0,
    "nn": 0,
    "weights": 1,
    "data": 1,
    "encoders": 2,
    "connectors": 2,
    "backbones": 2,
    "fusion": 2,
    "generators": 2,
    "models": 3,
    "generation": 4,
    "agents": 5,
    "pipelines": 5,
    "engine": 5,
    "train": 6,
    "evaluate": 6,
    "checkpoints": 6,
    "systems": 7,
    "api": 8,
    "check": 8,
    "diagram": 8,
    "serve": 9,
    "study": 9,
    "cli": 10,
    "__main__": 11,
}
# The command line and the server are clients of the public interface: they `import polymodal` as users do.
CLIENTS = {"check", "cli", "serve", "study"}
HEAVY = (
    "torch",
    "PIL",
    "av",
    "numpy",
    "soundfile",
    "gguf",
    "transformers",
    "tokenizers",
    "typer",
    "rich",
    "jinja2",
)
ORACLES = ("transformers", "timm", "diffusers", "peft", "torchvision", "torchaudio", "open_clip")


def complaint(package: str, found: Import) -> str | None:
    """Why this import is not allowed in this package, or None."""
    if found.target.split(".")[0] != "polymodal":
        return None
    parts = found.target.split(".")
    if len(parts) == 1 or parts[1].startswith("__"):
        allowed = package in CLIENTS or package == ""
        return None if allowed else "only the command line and the server import the package as a whole"
    target = parts[1]
    if target == package or target == "errors" or package == "":
        return None
    if target not in RANKS:
        return f"'{target}' has no rank"
    if RANKS[target] < RANKS[package] and not (package in CLIENTS and target == "api"):
        return None
    return f"{package} (rank {RANKS[package]}) imports {target} (rank {RANKS[target]})"


def test_every_import_goes_down():
    wrong = []
    for path in python_files(PACKAGE):
        parts = module_name(path).split(".")
        package = parts[1] if len(parts) > 1 else ""
        if package and package not in RANKS:
            wrong.append(f"{short(path)}: package '{package}' has no rank")
            continue
        for found in imports(path):
            if why := complaint(package, found):
                wrong.append(f"{short(path)}:{found.line}: {why}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("package", "target", "allowed"),
    [
        ("nn", "polymodal.errors", True),
        ("nn", "polymodal.data.media", False),
        ("weights", "polymodal.data.media", False),
        ("systems", "polymodal.weights.fetch", True),
        ("models", "polymodal.generation.sampling", False),
        ("cli", "polymodal.api", False),
        ("cli", "polymodal", True),
        ("data", "polymodal", False),
        ("data", "torch", True),
    ],
)
def test_the_rule_itself(package, target, allowed):
    assert (complaint(package, Import(target=target, line=1, top_level=True)) is None) == allowed


def test_package_inits_hold_a_docstring_only():
    for path in python_files(PACKAGE):
        name = module_name(path)
        if path.name != "__init__.py" or name in {"polymodal", "polymodal.cli"} or name.startswith("polymodal.systems"):
            continue
        body = parsed(path).body
        assert len(body) == 1 and isinstance(body[0], ast.Expr), f"{short(path)}: a docstring only"


def test_run_time_code_never_imports_an_oracle():
    wrong = [
        f"{short(path)}:{found.line}: {found.target}"
        for path in python_files(PACKAGE)
        if PACKAGE / "check" not in path.parents  # proof compares with them, and says so when they are not there
        for found in imports(path)
        if found.target.split(".")[0] in ORACLES
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("statement", ["import polymodal", "import polymodal as pm; pm.__version__; dir(pm)"])
def test_import_is_free(statement):
    code = f"import sys; {statement}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_command_line_starts_without_torch():
    heavy = tuple(name for name in HEAVY if name not in {"typer", "rich"})
    code = f"import sys, polymodal.cli.app; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
