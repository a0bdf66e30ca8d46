"""The short form of benchmarks/soak.py: mixed load, no reply lost, memory flat."""

import runpy
from pathlib import Path

SOAK = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "soak.py"), run_name="soak")


def test_mixed_load_loses_nothing_and_stays_flat(llava) -> None:
    soak = SOAK["run"](llava, seconds=6, clients=6)
    assert not soak.failures, (soak.answered, soak.lost[:3])
    assert set(soak.answered) == {200, 400} and sum(soak.answered.values()) > 50
    assert soak.growth < SOAK["GROWTH"]
