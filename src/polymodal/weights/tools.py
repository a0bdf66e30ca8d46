"""pip and npm as processes of their own, for an index that our own reading cannot enter (it asks for a login)."""

from __future__ import annotations

import subprocess
import sys

from polymodal.weights.network_limits import network_limits

SECONDS = 3600
"""A tool that has not ended by then is stopped."""
PIP_MEMORY = 4 << 30
"""Bytes of address space that pip may take; node reserves more than it uses, and limits itself."""

# The process limits itself before it becomes the tool; between fork and exec of a process with threads nothing else is
# safe.  A limit that is set already, and lower, stays.
_LIMITED = """
import os, resource, sys
for kind, wanted in ((resource.RLIMIT_FSIZE, int(sys.argv[1])), (resource.RLIMIT_AS, int(sys.argv[2]))):
    try:
        if wanted:
            resource.setrlimit(kind, (wanted, wanted))
    except (ValueError, OSError):
        pass
os.execvp(sys.argv[3], sys.argv[3:])
"""


def run(command: list[str], memory: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a tool that downloads a package; none of its files grows beyond `package_bytes`.

    memory: bytes of address space, 0 for no limit.  Raises OSError and subprocess.TimeoutExpired.
    """
    limits = [str(network_limits().package_bytes), str(memory)]
    limited = [sys.executable, "-c", _LIMITED, *limits, *command]
    return subprocess.run(limited, capture_output=True, text=True, errors="replace", timeout=SECONDS)
