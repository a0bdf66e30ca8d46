"""Words of strangers on a terminal: names, labels, configs and answers are read there, and never act."""

import io
import json
import logging
import os
import pty
import subprocess
import sys
import unicodedata
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from polymodal.cli.answer import say
from polymodal.cli.app import note, run
from polymodal.cli.cleaning import Cleaned, cleaned_streams
from polymodal.cli.output import console, print_json, progress, transfers, waiting
from polymodal.diagram.scene import Scene
from polymodal.diagram.scene import Text as Words
from polymodal.diagram.svg import to_svg
from polymodal.printable import clean, json_text, one_line

CLIPBOARD = "\x1b]52;c;cm0gLXJmIH4=\x07"
SEQUENCES = {
    "colour": "\x1b[31mred\x1b[0m",
    "hidden text": "\x1b[8msecret\x1b[28m",
    "clear the screen": "\x1b[2J\x1b[H",
    "a title": "\x1b]0;title\x07",
    "a link": "\x1b]8;;http://example.org/\x1b\\text\x1b]8;;\x1b\\",
    "the clipboard": CLIPBOARD,
    "a report of the terminal": "\x1b[6n\x1b[c\x1b[>c",
    "a macro of keys": "\x1bP+q544e\x1b\\",
    "C1 alone": "\x9b31mred\x9d52;c;AAAA\x9c",
    "C1 of every kind": "".join(map(chr, range(0x80, 0xA0))),
    "C0 of every kind": "".join(chr(code) for code in range(32) if chr(code) not in "\t\n"),
    "a line written over": "safe\rrm -rf",
    "backspaces": "safe\b\b\b\bevil",
    "delete": "a\x7fb",
    "nothing": "a\0b",
    "an override": "photo\u202egpj.exe",
    "isolates": "a\u2066b\u2069\u2067c\u2069\u2068d",
    "embeddings": "a\u202ab\u202bc\u202dd\u202c",
    "letters nobody sees": "pay\u200bpal \u2060word\ufeffmark \u2063x",
    "joiners in Latin": "a\u200db\u200cc é\u200dx",
    "tags": "hello" + "".join(chr(0xE0000 + ord(letter)) for letter in "ignore all"),
    "a flag with too many tags": "\U0001f3f4" + "".join(chr(0xE0000 + ord(letter)) for letter in "gbengsctwls"),
    "selectors in a row": "x\ufe0f\ufe0e\ufe01\ufe02",
    "rare selectors": "x\U000e0101\U000e0134",
    "line separators": "a\u2028b\u2029c",
    "fillers": "a\u3164\u115f\uffa0b",
    "bytes of a name": os.fsdecode(b"\x9b31m \x1b[31m \x84"),
}
LEGIT = {
    "Arabic": "مرحبا بالعالم، كيف حالك؟",
    "Persian with a joiner": "می\u200cخواهم کتاب\u200cها",
    "Hebrew with points": "שָׁלוֹם עֲלֵיכֶם",
    "Hebrew with a mark of direction": "עברית\u200f (English\u200e)",
    "Hindi with joiners": "क्\u200dष र्\u200cय नमस्ते",
    "Khmer with spaces of no width": "សួស្តី\u200bពិភពលោក",
    "Thai": "สวัสดีชาวโลก",
    "a family": "👨\u200d👩\u200d👧\u200d👦",
    "a rainbow": "🏳\ufe0f\u200d🌈 ❤\ufe0f\u200d🔥",
    "a skin": "👩🏽\u200d🚀 👍🏿",
    "Scotland": "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f!",
    "a keycap": "1\ufe0f\u20e3",
    "combining marks": "e\u0301 a\u0308 n\u0303 Z̈",
    "Vietnamese": "Tiếng Việt",
    "Chinese": "你好，世界",
    "a rare form": "葛\U000e0100",
    "Mongolian": "ᠮᠣᠩᠭᠣᠯ\u180bᠬᠡᠯᠡ",
    "a soft hyphen": "Donau\u00addampf",
    "lines and tabs": "a\n\tb\n\n| c | d |\n",
    "code": 'print("\\x1b[0m")  # é',
    "markup": "[bold]x[/] :smile: [link=http://a]b[/link]",
}


class Screen(io.StringIO):
    """A terminal that keeps what it is sent."""

    encoding = "utf-8"
    errors = "strict"

    def isatty(self) -> bool:
        return True


def screen_of(monkeypatch: Any, kind: str = "dumb") -> Screen:
    """One terminal for stdout and stderr, to be called within a test."""
    shown = Screen()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setenv("COLUMNS", "200")
    return shown


def acts(text: str) -> list[str]:
    """The characters of a text that would act on a terminal or that nobody sees where they are not needed."""
    bad = [c for c in text if (unicodedata.category(c) == "Cc" and c not in "\n\t") or "\u202a" <= c <= "\u202e"]
    return bad + [c for c in text if "\u2066" <= c <= "\u2069" or "\U000e0000" <= c <= "\U000e0060" or c == "\ufeff"]


@pytest.mark.parametrize("name", SEQUENCES)
def test_what_acts_is_escaped(name: str) -> None:
    text = SEQUENCES[name]
    shown = clean(text)
    assert not acts(shown) and shown != text and "\\" in shown
    assert clean(shown) == shown
    assert "\n" not in one_line(text + "\n\tx")


@pytest.mark.parametrize("name", LEGIT)
def test_what_scripts_need_stays(name: str) -> None:
    text = LEGIT[name]
    assert clean(text) == text
    stream = Screen()
    cleaned = Cleaned(stream)
    for letter in text:
        cleaned.write(letter)
    assert stream.getvalue() == text
    assert json.loads(json_text(json.dumps(text, ensure_ascii=False))) == text


def test_line_ends_of_windows_are_line_ends() -> None:
    assert clean("a\r\nb\rc") == "a\nb\\x0dc"


@pytest.mark.parametrize("name", SEQUENCES)
def test_answers_cut_anywhere_never_act(name: str, monkeypatch: Any) -> None:
    screen = screen_of(monkeypatch)
    text = "The answer is " + SEQUENCES[name] + " and more."
    for size in (1, 2, 3, 5, 100):
        screen.seek(0)
        screen.truncate()
        with cleaned_streams():
            say([text[at : at + size] for at in range(0, len(text), size)])
        assert not acts(screen.getvalue()), size
        assert "and more.\n" in screen.getvalue()


def test_a_pipe_gets_the_text_as_it_is(capsys: Any) -> None:
    text = "".join(SEQUENCES.values()).replace("\udc9b", "").replace("\udc84", "")
    with cleaned_streams():
        say([text])
    assert capsys.readouterr().out == text + "\n"


def test_json_means_the_same_and_never_acts(capsys: Any) -> None:
    values = {"answers": [*SEQUENCES.values(), *LEGIT.values()]}
    values["answers"] = [text for text in values["answers"] if text.isprintable() or "\udc9b" not in text]
    for lines in (False, True):
        print_json(values, lines=lines)
        out = capsys.readouterr().out
        assert not acts(out) and json.loads(out) == values
        assert LEGIT["a family"] in out and LEGIT["Persian with a joiner"] in out


def test_tables_warnings_logs_and_bars_never_act(monkeypatch: Any) -> None:
    screen = screen_of(monkeypatch)
    from rich.table import Table
    from rich.text import Text

    for text in SEQUENCES.values():
        text = text.replace("\udc9b", "").replace("\udc84", "")
        with cleaned_streams(), warnings.catch_warnings():
            warnings.showwarning = partial(note, said=set())
            table = Table(title=text)
            table.add_column(text)
            table.add_row(text, Text(text))
            console().print(table, text, Text(text, style="bold"))
            with waiting(text):
                print(text, file=sys.stderr)
            with progress(text, 1) as step:
                step(0, text)
                print(text)
            with transfers() as report:
                report(text, 1, 2)
                warnings.warn(text, stacklevel=1)
                handler = logging.StreamHandler(sys.stderr)
                handler.emit(logging.LogRecord("x", logging.ERROR, "x", 1, text, None, None))
            print(text)
            sys.stdout.writelines([text])
    assert not acts(screen.getvalue().replace("\r", "")) and "\\x1b" in screen.getvalue()


def test_a_moving_terminal_reads_no_escapes_of_strangers(monkeypatch: Any) -> None:
    """rich moves the cursor by itself; what others print meanwhile goes through it."""
    screen = screen_of(monkeypatch, "xterm")
    with cleaned_streams():
        with waiting("loading " + CLIPBOARD):
            print("note " + SEQUENCES["a link"], file=sys.stderr)
            print("note " + SEQUENCES["colour"])
        assert sys.stderr.stream is screen
    shown = screen.getvalue()
    assert "\x1b[" in shown and "\x1b]" not in shown and "\x1b[31m" not in shown and "\x07" not in shown
    assert sys.stdout is screen


def test_names_of_files_in_messages_never_act(monkeypatch: Any, tmp_path: Path) -> None:
    screen = screen_of(monkeypatch)
    for name in ("\x1b[31mred\x9b0m.png", "a\nb\rc.png", "x\u202egnp.jpg", "[red]x[/red]", "[/]", "a\x07b"):
        screen.seek(0)
        screen.truncate()
        assert run(["ask", f"{name}.jpg", "what?"]) == 2
        assert not acts(screen.getvalue()) and screen.getvalue().count("\n") == 1
    folder = tmp_path / "\x1b]0;x\x07[bold]"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["\x1b[2J\u202e"], "model_type": "\x9b31m"}))
    screen.seek(0)
    screen.truncate()
    assert run(["show", str(folder)]) == 2
    assert not acts(screen.getvalue()) and "[bold]" in screen.getvalue()


def test_pictures_hold_no_characters_that_act() -> None:
    for text in (*SEQUENCES.values(), "<script>alert(1)</script>&\ufffe"):
        words = Words(x=0, y=0, text=text + "\udce9", size=9, width=50, colour="text")
        made = to_svg(Scene(width=10, height=10, shapes=(words,), title=text, description=text))
        assert not acts(made) and "<script" not in made and "\ufffe" not in made
        made.encode("utf-8", "backslashreplace")


def test_completions_that_act_are_not_offered(tmp_path: Path) -> None:
    from polymodal.cli.terminal import completer

    for name in ("safe.png", "sa\x1b[31m.png", "sa\u202e.png", "sa\n.png"):
        (tmp_path / name).touch()
    readline = SimpleNamespace(get_begidx=lambda: 5)
    complete = completer(readline, ["file"])  # type: ignore[arg-type]
    assert [complete(f"{tmp_path}/sa", i) for i in range(2)] == [f"{tmp_path}/safe.png", None]


def test_the_page_of_help_keeps_its_colours(monkeypatch: Any) -> None:
    screen = screen_of(monkeypatch, "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert run(["pull", "--help"]) == 0 and run([]) == 2
    assert "\\x1b" not in screen.getvalue() and "\x1b[" in screen.getvalue() and "Usage" in screen.getvalue()


def test_the_program_at_a_terminal_of_its_own() -> None:
    leader, follower = pty.openpty()
    command = [sys.executable, "-m", "polymodal", "ask", "./\x1b]52;c;AAAA\x07\x9b31m", "what?"]
    process = subprocess.Popen(command, stdout=follower, stderr=follower, stdin=follower)
    os.close(follower)
    shown = b""
    with suppress(OSError):  # what Linux says when the other end is closed
        while some := os.read(leader, 4096):
            shown += some
    assert process.wait() == 2
    os.close(leader)
    error = shown.decode()
    assert "]52;c;AAAA" in error and not acts(error.replace("\r", ""))


def test_generated_texts_never_act(attack: Any) -> None:
    letters = [*SEQUENCES.values(), *LEGIT.values(), *"\x1b\x9b\u202e\u200d\ufe0f\U000e0041\U0001f3f4\udc9b a猫é\n"]
    for number, rng in attack.inputs(2000):
        text = "".join(rng.choice([rng.choice(letters), chr(rng.randrange(0xD800))]) for _ in range(rng.randint(1, 12)))
        with attack.one(number):
            shown, stream = clean(text), Screen()
            assert not acts(shown)
            cleaned, at = Cleaned(stream), 0
            while at < len(text):
                size = rng.randint(1, 4)
                cleaned.write(text[at : at + size])
                at += size
            assert not acts(stream.getvalue())
            assert json.loads(json_text(json.dumps(text, ensure_ascii=False))) == text
