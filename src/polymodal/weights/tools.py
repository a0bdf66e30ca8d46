"""pip and npm as processes of their own, for an index that our own reading cannot enter (it asks for a login)."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable

from polymodal.weights.limits import network_limits

SECONDS = 3600
"""A tool that has not ended by then is stopped."""
PIP_MEMORY = 4 << 30
"""Bytes of address space that pip may take; node reserves more than it uses, and limits itself."""


def run(command: list[str], memory: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run a tool that downloads a package; none of its files grows beyond `package_bytes`.

    memory: bytes of address space.  Raises OSError and subprocess.TimeoutExpired.
    """
    return subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=SECONDS, preexec_fn=_limits(memory)
    )


def _limits(memory: int | None) -> Callable[[], None]:
    """What the new process does before it becomes the tool."""
    import resource

    largest = network_limits().package_bytes

    def limit() -> None:
        for kind, wanted in ((resource.RLIMIT_FSIZE, largest), (resource.RLIMIT_AS, memory)):
            if wanted is None:
                continue
            # A limit that is set already, and lower, stays.
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(kind, (wanted, wanted))

    return limit
