"""Inputs that mean harm, as many as asked for: a few hundred in the suite, tens of thousands by `make attack`.

ATTACK=20 makes every attack twenty times as long, ATTACK_SEED=7 another one, ATTACK_SECONDS=60 ends each after a
minute.  Each input has its own random numbers, drawn from the seed, the name of the test and the input's number, so
that a failure can be repeated by itself.  What was tried is printed at the end: inputs, refusals, the slowest input and
the largest growth of memory.
"""

import faulthandler
import os
import random
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import pytest

from polymodal.errors import PolymodalError

TIMES = float(os.environ.get("ATTACK", "1"))
SEED = int(os.environ.get("ATTACK_SEED", "0"))
SECONDS = float(os.environ.get("ATTACK_SECONDS", "inf"))
HANG = 120  # seconds after which an input counts as one that never ends: the process is stopped with a trace


@dataclass
class Attack:
    """One attack: its inputs, what became of them, and the worst of them.  traces: where that of a hang goes."""

    name: str
    traces: int = 2
    hang: float = HANG
    tried: int = 0
    refused: int = 0
    slowest: float = 0.0
    slowest_input: str = ""
    growth: int = 0
    seed: int = field(default=SEED)

    def inputs(self, count: int) -> Iterator[tuple[int, random.Random]]:
        """(number, random numbers of its own) for `count` inputs, times ATTACK, within ATTACK_SECONDS."""
        end = time.monotonic() + SECONDS
        for number in range(max(1, round(count * TIMES))):
            if number >= count and time.monotonic() > end:  # what the suite tries is always tried
                return
            yield number, random.Random(f"{self.seed} {self.name} {number}")

    @contextmanager
    def one(self, label: object, seconds: float = 10.0, megabytes: float = 1024.0) -> Iterator[None]:
        """Around the use of one input: it may succeed, or be refused with one of our errors in one line; else it fails.

        seconds, megabytes: what it may take in time and in growth of the process' peak memory.
        """
        before, start = _peak(), time.perf_counter()
        faulthandler.dump_traceback_later(self.hang, exit=True, file=self.traces)
        self.tried += 1
        try:
            yield
        except PolymodalError as refusal:
            self.refused += 1
            assert str(refusal).strip() and "\n" not in str(refusal), f"{label}: not one line: {refusal!s:.300}"
        except Exception as defect:
            raise AssertionError(
                f"input {label} (seed {self.seed}): {type(defect).__name__}: {defect!s:.300}"
            ) from defect
        finally:
            faulthandler.cancel_dump_traceback_later()
        took, grown = time.perf_counter() - start, _peak() - before
        if took > self.slowest:
            self.slowest, self.slowest_input = took, str(label)[:60]
        self.growth = max(self.growth, grown)
        assert took <= seconds, f"input {label} (seed {self.seed}) took {took:.1f} s, the limit is {seconds:g}"
        assert grown <= megabytes * 1e6, f"input {label} (seed {self.seed}) took {grown / 1e6:.0f} MB of memory"


def _peak() -> int:
    """Bytes of memory that this process had at most, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.fixture(scope="session")
def traces(pytestconfig: pytest.Config) -> Iterator[int]:
    """The error output of the process itself: what pytest captures is lost with a process that is stopped."""
    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        number = os.dup(2)
    yield number
    os.close(number)


@pytest.fixture
def attack(request: pytest.FixtureRequest, traces: int) -> Iterator[Attack]:
    """`for number, rng in attack.inputs(200): with attack.one(number): open(...)`; counted in the table at the end."""
    run = Attack(request.node.name, traces)
    yield run
    if run.tried:
        request.node.user_properties.append(("attack", asdict(run)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table of what was tried."""
    rows = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        if getattr(report, "when", "") == "teardown"
        for key, value in getattr(report, "user_properties", [])
        if key == "attack"
    ]
    if not rows or TIMES == 1:
        return
    terminalreporter.section(f"attacks, seed {SEED}")
    terminalreporter.write_line(f"{'attack':60} {'inputs':>8} {'refused':>8} {'slowest':>9} {'memory':>9}")
    for row in sorted(rows, key=lambda row: row["name"]):
        terminalreporter.write_line(
            f"{row['name'][:60]:60} {row['tried']:8,} {row['refused']:8,} {row['slowest']:7.2f} s"
            f" {row['growth'] / 1e6:6.0f} MB"
        )
    terminalreporter.write_line(
        f"{'in all':60} {sum(r['tried'] for r in rows):8,} {sum(r['refused'] for r in rows):8,}"
    )
