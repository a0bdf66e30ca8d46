"""The library of `kernels.c`: compiled once by the machine's own compiler, or absent, and then torch does its work.

    library() -> the loaded library, None where there is no compiler, no OpenMP, or POLYMODAL_NATIVE=0; why_absent()

It is compiled for exactly this processor at the first use (about two seconds) and kept in
`$XDG_CACHE_HOME/polymodal/native` (default `~/.cache`), under a name that depends on source, compiler and processor.
It is not kept beside weights, whose folder may be shared by unlike machines.  A file that another user could have
written is not loaded, and one whose numbers are wrong is not used.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

SOURCE = Path(__file__).with_name("kernels.c")
INCLUDED = ("products.h", "int4.h")
FLAGS = ("-O3", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
SECONDS = 120.0
_LOG = logging.getLogger(__name__)


class Absent(Exception):
    """Why there is no library."""


def library() -> ctypes.CDLL | None:
    """The library, looked for once a process."""
    return looked_for()[0]


def why_absent() -> str:
    """Why there is no library, in one line; empty where there is one."""
    return looked_for()[1]


@lru_cache(maxsize=1)
def looked_for() -> tuple[ctypes.CDLL | None, str]:
    """(the library or None, why there is none)."""
    try:
        return _checked(_loaded(built(cache_folder()))), ""
    except (Absent, OSError, subprocess.SubprocessError) as problem:
        why = " ".join(str(problem).split())
        _LOG.info("no native kernels, torch's operators are used: %s", why)
        return None, why


def cache_folder() -> Path:
    """Where libraries are kept.  Raises Absent for a user without a home folder."""
    if os.environ.get("POLYMODAL_NATIVE", "1").lower() in {"0", "false", "no", "off"}:
        raise Absent("POLYMODAL_NATIVE says so")
    shared = os.environ.get("XDG_CACHE_HOME", "")
    base = shared if os.path.isabs(shared) else os.path.expanduser("~/.cache")
    if base.startswith("~"):
        raise Absent("this user has no home folder")
    return Path(base) / "polymodal" / "native"


def built(folder: Path) -> Path:
    """The library's file in `folder`, compiled if it is not there.  Raises Absent, OSError, SubprocessError."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC") or "cc", "gcc", "clang"))), None)
    if os.name != "posix" or compiler is None:
        raise Absent("there is no C compiler")
    command = [compiler, *FLAGS, "-march=native" if platform.machine() in {"x86_64", "AMD64"} else "-mcpu=native"]
    sources = [SOURCE, *map(SOURCE.with_name, INCLUDED)]
    made_of = " ".join([*command, os.path.realpath(compiler), _processor()])
    text = b"".join(map(Path.read_bytes, sources)) + made_of.encode()
    path = folder / f"{hashlib.sha256(text).hexdigest()[:24]}.so"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / "made.so"
            done = subprocess.run(
                [*command, str(SOURCE), "-o", str(made), "-lm"], capture_output=True, timeout=SECONDS, text=True
            )
            if done.returncode:
                raise Absent(f"{compiler} failed: {done.stderr[-400:]}")
            os.replace(made, path)  # whoever builds at the same time makes the same file
    return path


def _processor() -> str:
    """What tells processors apart that need code of their own."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() + platform.machine()
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def _loaded(path: Path) -> ctypes.CDLL:
    for each in (path, path.parent):
        status = each.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022:
            raise Absent(f"{each} could have been written by another user")
    return prepared(ctypes.CDLL(str(path)))


def prepared(found: ctypes.CDLL) -> ctypes.CDLL:
    """A library whose functions know their arguments."""
    found.pm_linear.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int)
    found.pm_linear.restype = ctypes.c_int
    found.pm_blocks.argtypes = (ctypes.c_void_p, ctypes.c_int)
    found.pm_blocks.restype = ctypes.c_int
    return found


def _checked(found: ctypes.CDLL) -> ctypes.CDLL:
    """Raises Absent where a small product differs from torch's."""
    from polymodal.nn.native.linear import call

    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(3, 150, generator=generator), torch.randn(37, 150, generator=generator)
    product = call(found, x, weight)
    if product is None or (product - x @ weight.T).abs().max() > 1e-3:
        raise Absent("its numbers are wrong")
    return found
