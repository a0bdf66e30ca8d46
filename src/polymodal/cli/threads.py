"""How many threads torch computes with: as many as there are idle cores.

    cores this process may use (affinity, cgroup quota)  -  cores that other processes keep busy  ->  threads

Why: the threads of one operation wait for each other, so one that shares its core with another process stops them all;
on a busy two-core machine two threads decode five times slower than one.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SHORTEST = 0.1
"""Seconds over which the load is measured at least."""
TOLERATED = 0.25
"""Share of a core that others may keep busy before it is left to them."""
CHOSEN_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
QUOTAS = (
    ("/sys/fs/cgroup/cpu.max", None),
    ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
)


@dataclass(frozen=True, kw_only=True)
class Threads:
    """How many threads, and why so many, in words."""

    count: int
    reason: str


def set_threads(wanted: int | None = None) -> Threads:
    """Set the number of torch's threads: `wanted`, or what `choose` finds while torch is imported."""
    others = load_meter()  # importing torch takes a second: long enough to measure
    import torch

    if wanted is not None:
        chosen = Threads(count=wanted, reason="as --threads says")
    elif named := next((name for name in CHOSEN_BY_USER if os.environ.get(name)), None):
        chosen = Threads(count=torch.get_num_threads(), reason=f"as {named} says")
    else:
        chosen = choose(usable_cores(), others(), os.cpu_count() or 1, torch.get_num_threads())
    torch.set_num_threads(chosen.count)
    return chosen


def choose(usable: float, busy: float, machine: int, most: int) -> Threads:
    """Threads for the cores that are idle.

    usable: cores this process may use.  busy: cores that other processes keep busy, of the `machine` cores in all.
    most: what torch would take by itself.
    """
    busy = min(busy, machine)
    idle = usable * (1 - busy / machine)
    count = max(1, min(most, int(idle + TOLERATED)))
    cores = f"{usable:g} usable {'core' if usable == 1 else 'cores'}"
    return Threads(count=count, reason=f"{cores}; other work keeps {busy:.1f} of {machine} busy")


def usable_cores() -> float:
    """Cores this process may use: those it may run on, and the share of time that its control group gets."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS and Windows
        cores = os.cpu_count() or 1
    return min(cores, quota(cores))


def quota(without: float) -> float:
    """Cores that the control group may keep busy; `without` where it has no limit."""
    for limit, period in QUOTAS:
        try:
            words = [*Path(limit).read_text().split(), *(Path(period).read_text().split() if period else ())]
            allowed, each = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):  # no such file, "max", or an unknown format
            continue
        if allowed > 0 and each > 0:
            return allowed / each
    return without


def load_meter() -> Callable[[], float]:
    """Begin to measure; the function it returns says how many cores others kept busy since."""
    start, mine, first = time.monotonic(), time.process_time(), busy_seconds()

    def others() -> float:
        time.sleep(max(0.0, SHORTEST - (time.monotonic() - start)))
        last = busy_seconds()
        if first is None or last is None:
            return load_average()
        spent = last - first - (time.process_time() - mine)
        return max(0.0, spent / (time.monotonic() - start))

    return others


def load_average() -> float:
    """Processes that wanted to compute in the last minute, this one included; 0 where nobody counts them."""
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):
        return 0.0


def busy_seconds() -> float | None:
    """Seconds that the cores of the machine have computed since it started, all added up; None if that is unknown.

    Time that a hypervisor gave to other machines ("steal") counts as busy: it is not there to be used.
    """
    try:
        counts = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
        user, nice, system, _idle, _waiting, irq, softirq, steal = map(int, counts)
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
