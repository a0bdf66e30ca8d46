"""How many threads are chosen, and that commands and `doctor` use and say it."""

import subprocess
import sys
import time

import pytest
import torch

from polymodal.cli import threads


@pytest.mark.parametrize(
    ("usable", "busy", "machine", "most", "expected"),
    [
        (2, 0.0, 2, 2, 2),
        (2, 0.2, 2, 2, 2),  # a little of other work
        (2, 0.9, 2, 2, 1),  # one core is busy
        (2, 7.0, 2, 2, 1),  # never less than one
        (16, 0.4, 16, 16, 15),
        (8, 32.0, 64, 8, 4),  # a container on a machine that is half busy
        (0.5, 0.0, 64, 1, 1),
        (64, 0.0, 64, 32, 32),  # not more than torch would take
    ],
)
def test_as_many_threads_as_idle_cores(usable, busy, machine, most, expected):
    chosen = threads.choose(usable, busy, machine, most)
    assert chosen.count == expected and f"of {machine} busy" in chosen.reason


def test_quota_of_a_container(tmp_path, monkeypatch):
    quota, period = tmp_path / "quota", tmp_path / "period"
    monkeypatch.setattr(threads, "QUOTAS", ((str(tmp_path / "none"), None), (str(quota), str(period))))
    period.write_text("100000\n")
    quota.write_text("150000\n")
    assert threads.quota(8) == 1.5
    quota.write_text("-1\n")
    assert threads.quota(8) == 8
    monkeypatch.setattr(threads, "QUOTAS", ((str(quota), None),))
    for text, cores in (("200000 100000\n", 2), ("max 100000\n", 8), ("", 8)):
        quota.write_text(text)
        assert threads.quota(8) == cores


@pytest.mark.skipif(threads.busy_seconds() is None, reason="no /proc/stat here")
def test_other_work_is_seen_and_our_own_is_not():
    others = threads.load_meter()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        sum(range(1000))
    before = others()
    worker = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        time.sleep(0.3)
        others = threads.load_meter()
        time.sleep(0.7)
        assert others() > 0.2
    finally:
        worker.kill()
        worker.wait()
    assert before >= 0


def test_threads_are_set_for_a_command(polymodal, tiny, monkeypatch):
    before = torch.get_num_threads()
    try:
        assert polymodal("ask", "what?", "-m", tiny, "--max-tokens", 1, "--threads", 3).code == 0
        assert torch.get_num_threads() == 3
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert threads.set_threads() == threads.Threads(count=3, reason="as OMP_NUM_THREADS says")
    finally:
        torch.set_num_threads(before)


def test_doctor_says_how_many_and_why(polymodal, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    try:
        facts = polymodal("doctor", "--quick", "--json").json["cpu"]
        assert facts["threads"] >= 1 and "busy" in facts["threads_reason"]
        words = polymodal("doctor", "--quick").out
        assert "usable core" in words and "busy" in words and "_" not in words.replace("avx512_", "").split("system")[0]
    finally:
        torch.set_num_threads(before)
