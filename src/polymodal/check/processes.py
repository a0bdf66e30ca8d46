"""Checks of many systems in several processes at once, in the order they were asked for.

Each process has its share of the machine's cores.  Trap: with `max_tasks_per_child` the pool of Python 3.11 waits for
ever once a process is to be replaced.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from polymodal.check.engine import Result


def check_all(ids: Sequence[str], jobs: int) -> Iterator[Result]:
    """The result of each system, as `engine.check` gives it."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        yield from pool.map(partial(check_one, threads=threads), ids)


def check_one(id: str, threads: int) -> Result:
    """In its own process."""
    import torch

    from polymodal import systems
    from polymodal.check import engine

    torch.set_num_threads(threads)
    return engine.check(systems.get(id))
