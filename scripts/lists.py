"""Write the lists of systems that pages hold, between their marks: which there are, and how many files one takes.

    python scripts/lists.py     writes both READMEs, docs/dev/systems.md and src/polymodal/systems/_recognition.py
    lists.pages()               {path: what it must hold}; tests/systems/test_recognition.py compares

A list stands between `<!-- NAME: written by scripts/lists.py -->` and `<!-- end of NAME -->`.  All of it comes from the
records and from the folders, so that a new system is typed into no page.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import recognition

from polymodal import systems
from polymodal.systems import System

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "polymodal"


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of system: how the README calls it, how a contributor does, and which systems are of it."""

    title: str
    short: str
    holds: Callable[[System], bool]


def fuses(letter: str) -> Callable[[System], bool]:
    """Whether a system's first way of fusion is the one of this letter."""
    return lambda system: system.fusion[:1] == (letter,)


KINDS = (
    Kind(title="encoders, dual encoders", short="encoders",
         holds=lambda system: not system.fusion and system.inputs != ("text",)),
    Kind(title="fusion encoders", short="fusion encoder, method on features",
         holds=lambda system: system.fusion[:1] in (("fusion-encoder",), ("method",))),
    Kind(title="A", short="A, cross-attention between blocks", holds=fuses("A")),
    Kind(title="B", short="B, layers inside blocks", holds=fuses("B")),
    Kind(title="C", short="C, features at placeholders", holds=fuses("C")),
    Kind(title="D", short="D, ids of one vocabulary", holds=fuses("D")),
    Kind(title="text only", short="text model of a known family",
         holds=lambda system: not system.fusion and system.inputs == ("text",)),
    Kind(title="agents", short="agent, which calls other models", holds=fuses("agent")),
)  # fmt: skip


def published() -> list[System]:
    """The published systems, by id: without the project's own, and without what any language model is read as."""
    return [system for system in systems.every() if system.id not in ("mini", "language-model")]


CHINESE = {
    "encoders, dual encoders": "编码器、双编码器",
    "fusion encoders": "融合编码器",
    "text only": "仅文本",
    "agents": "智能体",
}
"""Titles of kinds in README.zh-CN.md; a letter is the same in every language."""


def catalogue() -> str:
    """README: how many systems there are, and which, by type."""
    head = f"The {len(published())} published systems that are here:"
    return "\n".join([head, "", "| type | systems |", "|---|---|", *_by_type({})])


def chinese_catalogue() -> str:
    """The same in README.zh-CN.md."""
    head = f"这里有 {len(published())} 个已发表的系统："
    return "\n".join([head, "", "| 类型 | 系统 |", "|---|---|", *_by_type(CHINESE)])


def _by_type(titles: Mapping[str, str]) -> list[str]:
    found = published()
    return [
        f"| {titles.get(kind.title, kind.title)} | {', '.join(s.id for s in found if kind.holds(s))} |"
        for kind in KINDS
    ]


def files() -> str:
    """docs/dev/systems.md: for each kind, how many files its systems have of their own, and the smallest example."""
    lines = ["| kind | systems | files of its own | smallest example |", "|---|---|---|---|"]
    for kind in KINDS:
        held = sorted((system for system in published() if kind.holds(system)), key=lambda s: _lines(own_files(s)))
        counts = sorted(len(own_files(system)) for system in held)
        example = entry(held[0]).name
        lines.append(f"| {kind.short} | {len(held)} | {_between(counts)} | `{example}` |")
    return "\n".join(lines)


def entry(system: System) -> Path:
    """The file or folder of a system's record."""
    path = PACKAGE / "systems" / recognition.stem(system)
    return path if path.is_dir() else path.with_suffix(".py")


def own_files(system: System) -> list[Path]:
    """The files that are there for one system alone: record, evidence, fixtures of outputs, and tests by its name."""
    stem, place = recognition.stem(system), entry(system)
    record = sorted(place.glob("*.py")) if place.is_dir() else [place]
    proof = [PACKAGE / "check" / "evidence" / f"{stem}.py"]
    stems = {recognition.stem(each) for each in published()}
    fixtures = [
        path
        for path in sorted((PACKAGE / "check" / "fixtures").glob(f"{stem}*"))
        if not any(path.stem.startswith(other) for other in stems if len(other) > len(stem) and other.startswith(stem))
    ]
    return record + proof + fixtures + sorted((ROOT / "tests").glob(f"*/test_{stem}.py"))


def _lines(paths: list[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths if path.suffix == ".py")


def _between(counts: list[int]) -> str:
    return str(min(counts)) if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


LISTS = {
    "README.md": {"catalogue": catalogue},
    "README.zh-CN.md": {"catalogue": chinese_catalogue},
    "docs/dev/systems.md": {"files": files},
}


def pages() -> dict[Path, str]:
    """Each page as it must be.  Raises ValueError for a page without the marks of its list."""
    found = {recognition.PATH: recognition.text()}
    for name, lists in LISTS.items():
        path = ROOT / name
        page = path.read_text(encoding="utf-8")
        for title, written in lists.items():
            first, last = f"<!-- {title}: written by scripts/lists.py -->", f"<!-- end of {title} -->"
            pattern = re.compile(f"{re.escape(first)}.*?{re.escape(last)}", re.DOTALL)
            if not pattern.search(page):
                raise ValueError(f"{name}: expected a line {first} and, after it, {last}")
            text = f"{first}\n{written()}\n{last}"
            page = pattern.sub(lambda found, text=text: text, page)
        found[path] = page
    return found


if __name__ == "__main__":
    for page, content in pages().items():
        page.write_text(content, encoding="utf-8")
