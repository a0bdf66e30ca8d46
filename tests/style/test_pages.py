"""Pages say what is there: links lead to files, commands and options exist, code is Python, both READMEs agree."""

import ast
import re
from pathlib import Path

import pytest
import typer

from polymodal.cli.app import app

ROOT = Path(__file__).parents[2]
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
PAGES = [*READMES, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)|(?:src|href)=\"([^\"]+)\"")
SPAN = re.compile(r"`polymodal ([^`\n]+)`")
LINE = re.compile(r"^(?:\$ )?polymodal ([^#\n]+)", re.MULTILINE)


def links(page: Path) -> list[str]:
    """What a page links to, code left out."""
    text = re.sub(r"`[^`\n]*`", "", BLOCK.sub("", page.read_text(encoding="utf-8")))
    return ["".join(found) for found in LINK.findall(text)]


def options() -> dict[str, set[str]]:
    """Command -> its options."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    whole = {name: (command, *getattr(command, "commands", {}).values()) for name, command in commands.items()}
    return {
        name: {"--help", *(word for command in some for each in command.params for word in each.opts)}
        for name, some in whole.items()
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    missing = [each for each in links(page) if "://" not in each and not (page.parent / each).exists()]
    assert not missing


@pytest.mark.parametrize("page", [*READMES, *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name)
def test_code_is_python(page: Path) -> None:
    for kind, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "python":
            ast.parse(code)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_exist(page: Path) -> None:
    known = options()
    text = page.read_text(encoding="utf-8")
    given = SPAN.findall(BLOCK.sub("", text)) + [line for _, code in BLOCK.findall(text) for line in LINE.findall(code)]
    wrong = []
    for words in given:
        command, *rest = words.split(" ", 1)
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", " ".join(rest)))
        if command.startswith("--"):
            continue
        # `polymodal show|check ./my_system.py` stands for two commands.
        for each in command.split("|"):
            if each not in known or named - known[each]:
                wrong.append(words)
    assert not wrong


def test_the_readmes_agree() -> None:
    """The same code, links, commands and numbers of rows; the words alone are in another language."""
    english, chinese = (page.read_text(encoding="utf-8") for page in READMES)
    assert BLOCK.findall(english) == BLOCK.findall(chinese)
    assert sorted({*links(READMES[0])} - {"README.zh-CN.md"}) == sorted({*links(READMES[1])} - {"README.md"})
    assert "README.zh-CN.md" in links(READMES[0]) and "README.md" in links(READMES[1])
    for mark in ("## ", "### ", "| ", "- "):
        assert len(re.findall(f"^{re.escape(mark)}", english, re.M)) == len(
            re.findall(f"^{re.escape(mark)}", chinese, re.M)
        ), mark
    assert sorted(re.findall(r"`polymodal [^`]+`", english)) == sorted(re.findall(r"`polymodal [^`]+`", chinese))
    assert sorted(re.findall(r"\d+(?:\.\d+)?", english)) == sorted(re.findall(r"\d+(?:\.\d+)?", chinese))
