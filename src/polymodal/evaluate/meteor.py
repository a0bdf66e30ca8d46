"""METEOR 1.5 of descriptions, by its own program: a Java archive that the package `pycocoevalcap` brings.

    words of captions (`caption_words.py`) -> "SCORE ||| reference ||| ... ||| description" -> 23 counts of each sample
    counts of all samples -> "EVAL ||| ... ||| ..." -> the score of each, then that of the set

The score of a set is no mean of its samples': the program adds up the counts, so that no interval is given.  Its tables
of synonyms and paraphrases are for English; the options are those of COCO's evaluation (-l en -norm).
Needs `java` and `pip install pycocoevalcap`; without them the metric is left out, and why is told.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import numpy as np

from polymodal.errors import ConfigError
from polymodal.evaluate.captions import Found, caption_texts, read_words
from polymodal.evaluate.metric import Metric

JAR = "meteor/meteor-1.5.jar"


@cache
def jar() -> Path | None:
    """Where the program lies; nothing is imported to find it."""
    found = importlib.util.find_spec("pycocoevalcap")
    places = [] if found is None else [*(found.submodule_search_locations or ())]
    return next((path for place in places if (path := Path(place) / JAR).is_file()), None)


def lacks() -> str:
    """What METEOR needs and is not here; "" where it can run."""
    if shutil.which("java") is None:
        return "needs Java 1.7 or newer (`java`)"
    return "needs its program: pip install --no-deps pycocoevalcap" if jar() is None else ""


class Program:
    """The running program: a line in, a line out."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def ask(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ConfigError("METEOR's program stopped; run `java -version`, and see that it has 2 GB of memory")
        return line.strip()


@contextmanager
def running() -> Iterator[Program]:
    """The program, ended afterwards.  Raises ConfigError where it cannot run."""
    path, why = jar(), lacks()
    if why or path is None:
        raise ConfigError(f"METEOR {why}")
    command = ["java", "-Xmx2G", "-jar", path.name, "-", "-", "-stdio", "-l", "en", "-norm"]
    process = subprocess.Popen(
        command, cwd=path.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, encoding="utf-8",
    )  # fmt: skip
    try:
        yield Program(process)
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()


def counts(found: Found) -> np.ndarray:
    """[N, 1 + counts]: the score of each sample alone, then what the program counted of it."""
    with running() as program:
        stats = []
        for words, references in zip(*found, strict=True):
            texts = [" ".join(each).replace("|||", "") for each in (*references, words)]
            program.ask(" ||| ".join(["SCORE", *texts]))
            stats.append(program.answer())
        scores = _scores(program, stats)
    return np.array([[score, *map(float, line.split())] for score, line in zip(scores, stats, strict=False)])


def total(rows: np.ndarray) -> float:
    """The score of a set, of its `counts`."""
    with running() as program:
        return _scores(program, [" ".join(f"{count!r}" for count in row[1:].tolist()) for row in rows])[-1]


def _scores(program: Program, stats: Sequence[str]) -> list[float]:
    """The score of each sample, and of all together."""
    program.ask(" ||| ".join(["EVAL", *stats]))
    return [float(program.answer()) for _ in range(len(stats) + 1)]


METEOR = Metric(name="meteor", read=read_words, rows=counts, total=total, resampled=0, asks=caption_texts, lacks=lacks)
