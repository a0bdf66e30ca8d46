"""All measures of one model, with the speed and the load of the machine before and after."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from PIL import Image

import polymodal as pm
from polymodal.check.peer import llama_cpp_of, peer_of
from polymodal.cli.machine import gemm_rate, read_bandwidth
from polymodal.cli.speed import llava, media, server, text
from polymodal.cli.speed.rounds import Measure, measured
from polymodal.cli.threads import load_meter, usable_cores
from polymodal.errors import PolymodalError
from polymodal.nn.native.library import library
from polymodal.nn.quantise import is_quantised

BUSY = 0.25
"""Cores that others may keep busy before figures are worth nothing."""


def run_all(
    model: pm.Model,
    address: str,
    load: Callable[..., pm.Model],
    *,
    rounds: int,
    tokens: int,
    peer: bool,
    server: bool,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Everything, with keys that stay."""
    others = load_meter()
    busy = [others()]
    model.chat("Hello", max_tokens=1)  # files are mapped: what was never read is not held
    alone = memory("VmRSS")
    machine = {
        "read_gb_s": read_bandwidth(),
        "gemm_gflop_s": gemm_rate(),
        "threads": torch.get_num_threads(),
        "native_kernels": library() is not None,
    }
    module = model.module_for(False)
    theirs, why = peer_of(address, module) if peer else (None, "not asked for")
    with ExitStack() as stack:
        llama = stack.enter_context(llama_cpp_of(module, torch.get_num_threads())) if peer else {}
        beside = text.Others(transformers=theirs, llama_cpp=llama, int8=_int8(module, load))
        some = [
            *text.measures(model, beside, tokens, machine["read_gb_s"]),
            *media.measures(model),
            *(media.preprocessing() if peer else ()),
            Measure(name="load", unit="s", sides={"polymodal": lambda: loading(load)}, more=False),
        ]
        pair = stack.enter_context(llava.pair_of(theirs, Image.fromarray(media.pixels())))
        some += llava.measures(pair) if pair is not None else []
        some += _served(model, tokens, stack) if server else []
        others = load_meter()
        results = measured(some, rounds, say)
        busy.append(others())
    return {
        "model": model.name,
        "rounds": rounds,
        "machine": {**machine, "cores": usable_cores(), "busy_cores": max(busy), "busy": max(busy) > BUSY},
        "without_peer": why,
        "weight_bytes": held_bytes(model.module),
        "resident_bytes": alone,
        "peak_bytes": memory("VmHWM"),
        "measures": [each.as_json() for each in results],
    }


def _int8(module: Any, load: Callable[..., pm.Model]) -> pm.Model | None:
    """The same model with int8 weights, where it has that form and has it not already."""
    try:
        return None if is_quantised(module) else load(quantise="int8")
    except PolymodalError:
        return None


def _served(model: pm.Model, tokens: int, stack: ExitStack) -> list[Measure]:
    if any(importlib.util.find_spec(name) is None for name in ("uvicorn", "fastapi", "llguidance")):
        return []
    return server.measures(stack.enter_context(server.served(model)), tokens)


def loading(load: Callable[[], pm.Model]) -> tuple[float, str]:
    """Seconds to load once more, its files being in the page cache."""
    start = time.perf_counter()
    name = load().name
    return time.perf_counter() - start, name


def held_bytes(module: torch.nn.Module) -> int:
    """Bytes of a model's parameters and buffers; what several names share counts once."""
    storages = [each.untyped_storage() for each in (*module.parameters(), *module.buffers())]
    return sum({each.data_ptr(): each.nbytes() for each in storages}.values())


def memory(line: str) -> int | None:
    """Bytes of memory that this process holds ("VmRSS") or held at most ("VmHWM"); None where that is unknown."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(each.split()[1]) * 1024 for each in lines if each.startswith(line))
    except (OSError, StopIteration):
        return None
