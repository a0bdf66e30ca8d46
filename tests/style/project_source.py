"""The project's own files as the style tests see them: tracked paths, parsed Python, imports."""

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "polymodal"


@dataclass(frozen=True, kw_only=True)
class Import:
    """One import: the dotted target, where it stands, whether it runs when the file is imported."""

    target: str
    line: int
    top_level: bool


@cache
def project_files() -> tuple[Path, ...]:
    """Every file git tracks or would track; in a source archive, every file outside hidden folders."""
    listing = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        text=True,
    )
    if listing.returncode == 0:
        return tuple(path for name in listing.stdout.splitlines() if (path := ROOT / name).is_file())
    return tuple(path for path in ROOT.rglob("*") if path.is_file() and "/." not in str(path.relative_to(ROOT)))


@cache
def python_files(folder: Path = ROOT) -> tuple[Path, ...]:
    return tuple(path for path in project_files() if path.suffix == ".py" and path.is_relative_to(folder))


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def short(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_name(path: Path) -> str:
    """`src/polymodal/nn/rope.py` -> `polymodal.nn.rope`; a package's `__init__.py` is the package itself."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[Import]:
    """All imports of a file, those inside functions and `if TYPE_CHECKING` included."""
    package = module_name(path).split(".") if path.is_relative_to(PACKAGE) else []
    if package and path.name != "__init__.py":
        package = package[:-1]

    def walk(node: ast.AST, top_level: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(target=alias.name, line=child.lineno, top_level=top_level)
            elif isinstance(child, ast.ImportFrom):
                stem = package[: len(package) - child.level + 1] if child.level else []
                base = ".".join([*stem, *([child.module] if child.module else [])])
                for alias in child.names:
                    target = f"{base}.{alias.name}" if base == "polymodal" else base
                    yield Import(target=target, line=child.lineno, top_level=top_level)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                types_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                yield from walk(child, top_level and not inside and not types_only)

    yield from walk(parsed(path), True)
