"""An input that never ends stops the process, and the trace is seen, though pytest captures what tests write."""

import shutil
import subprocess
import sys
from pathlib import Path

HANGING = """
import time

def test_never_ends(attack):
    attack.hang = 0.5
    for number, _ in attack.inputs(1):
        with attack.one(number):
            wait_for_ever()

def wait_for_ever():
    time.sleep(60)
"""


def test_the_trace_of_a_hang_is_seen(tmp_path: Path) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_hanging.py").write_text(HANGING)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path]
    run = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert run.returncode != 0 and "Timeout" in run.stderr and "wait_for_ever" in run.stderr
