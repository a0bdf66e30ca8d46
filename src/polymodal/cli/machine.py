"""Facts about the machine, each read or measured now.

Speeds are measured with as many threads as the other commands would choose now: bytes per second of a large float32 sum
(memory bandwidth limits decoding) and operations per second of a float32 matrix product (which limits prefill).  Other
work on the same machine lowers both, as it slows everything else.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path
from typing import Any

CORE = ("torch", "numpy", "safetensors", "tokenizers", "pillow", "av", "soundfile", "gguf")
CODECS = ("h264", "hevc", "vp9", "av1", "aac", "mp3", "opus", "flac", "vorbis")
FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8", "asimd", "sve", "i8mm", "bf16")
LOW_DISK = 2e9


def look(measure: bool = True) -> dict[str, Any]:
    """Everything `doctor` shows, with stable keys; `problems` holds a line for each fault found."""
    from polymodal import __version__
    from polymodal.cli.threads import set_threads

    threads = set_threads()

    versions = {"polymodal": __version__, "python": platform.python_version(), **packages()}
    cache = cache_folder()
    free = shutil.disk_usage(nearest_existing(cache)).free
    found: dict[str, Any] = {
        "versions": versions,
        "system": platform.platform(),
        "cpu": {**cpu(), "threads": threads.count, "threads_reason": threads.reason},
        "memory_gb": memory(),
        "gpu": gpus(),
        "native_kernels": native_kernels(),
        "codecs": codecs(),
        "cache": str(cache),
        "free_disk_gb": round(free / 1e9, 1),
        "pulled": pulled(),
        "changed_files": changed(),
    }
    if measure:
        found["measured"] = {"read_gb_s": read_bandwidth(), "gemm_gflop_s": gemm_rate()}
    found["problems"] = problems(found, free)
    return found


def packages() -> dict[str, str | None]:
    """Installed versions of the packages that polymodal depends on; None for a missing one."""
    found: dict[str, str | None] = {}
    for name in CORE:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def cpu() -> dict[str, Any]:
    """Model name, cores that this process may use, and the vector units that matter here."""
    from polymodal.cli.threads import usable_cores
    from polymodal.cpu import instructions, model_name

    flags = instructions()
    return {
        "name": model_name(),
        "cores": usable_cores(),
        "features": [name for name in FEATURES if name in flags],
    }


def memory() -> dict[str, float | None]:
    """Memory of the machine and how much of it is available, in GB of 1e9 bytes; None where that is unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return {"total": round(sizes["MemTotal"] / 1e9, 1), "free": round(sizes["MemAvailable"] / 1e9, 1)}
    except (OSError, KeyError, ValueError):
        return {"total": None, "free": None}


def gpus() -> list[dict[str, Any]]:
    """The GPUs that this build of torch can use."""
    import torch

    if not torch.cuda.is_available():
        return []
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [{"name": card.name, "memory_gb": round(card.total_memory / 1e9, 1)} for card in cards]


def native_kernels() -> dict[str, Any]:
    """Whether few rows are decoded by the compiled kernels (docs/speed.md), and why not; compiles them if need be."""
    from polymodal.nn.native.library import why_absent

    why = why_absent()
    return {"available": not why, "why_not": why}


def codecs() -> list[str]:
    """Which common video and sound formats the bundled FFmpeg can decode."""
    import av

    return [name for name in CODECS if name in av.codecs_available]


def cache_folder() -> Path:
    """Where weights are kept."""
    from polymodal.weights.fetch import home

    return home()


def nearest_existing(path: Path) -> Path:
    """The path itself, or its nearest parent that exists."""
    return next(each for each in (path, *path.parents) if each.exists())


def pulled() -> list[str]:
    """The models, as id:variant, whose published files are all in the cache."""
    from polymodal import systems
    from polymodal.weights.fetch import is_cached

    found = []
    for system in map(systems.get, systems.ids()):
        for variant in system.variants:
            if variant.weights and all(map(is_cached, variant.weights)):
                found.append(f"{system.id}:{variant.name}")
    return found


def changed() -> list[str]:
    """A line for each downloaded file that was changed since; files whose size and time are the same are not read."""
    from polymodal.weights.verified import changed_files

    return changed_files()


def read_bandwidth() -> float:
    """GB/s of reading float32 from a block much larger than any cache."""
    import torch

    from polymodal.train.utilisation import best_rate

    block = torch.ones(64 * 2**20)
    return round(best_rate(block.numel() * 4, block.sum) / 1e9, 1)


def gemm_rate() -> float:
    """GFLOP/s of a square float32 matrix product."""
    from polymodal.train.utilisation import matmul_rate

    return round(matmul_rate() / 1e9, 1)


def problems(found: dict[str, Any], free: float) -> list[str]:
    """One line for each problem that will stop polymodal from working."""
    from polymodal.weights.cache import has_home

    lines = [f"package {name} is not installed" for name, version in found["versions"].items() if version is None]
    cache = Path(found["cache"])
    if not has_home():
        lines.append(f"this user has no home folder: weights are kept in {cache}; set POLYMODAL_HOME to keep them")
    nearest = nearest_existing(cache)
    if not (os.access(nearest, os.W_OK) and nearest.is_dir()):
        lines.append(f"the cache folder {cache} cannot be written; set POLYMODAL_HOME to one that can")
    lines += found["changed_files"]
    if free < LOW_DISK:
        lines.append(f"only {free / 1e9:.1f} GB free where weights are kept ({cache})")
    return lines
