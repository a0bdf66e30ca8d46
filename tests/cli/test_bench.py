"""`bench`: by turns, medians, no figure where outputs differ; every measure of a small system runs."""

import pytest
import torch
from PIL import Image

from polymodal.cli.speed import media, report, server
from polymodal.cli.speed.rounds import Measure, Near, measured

SYSTEM = "tests/cli/tiny_system.py"
KEYS = {"model", "rounds", "machine", "without_peer", "resident_bytes", "weight_bytes", "measures"}


def side(figures, output):
    values = iter(figures)
    return lambda: (next(values), output)


def test_medians_of_rounds_after_one_that_warms_up() -> None:
    sides = {"ours": side([900, 1, 5, 3], "a"), "theirs": side([0, 2, 2, 1], "a")}
    (found,) = measured([Measure(name="speed", unit="tokens/s", sides=sides, limit=6)], 3)
    assert found.figures == {"ours": 3, "theirs": 2}
    assert found.as_json()["times_as_fast_as"] == {"theirs": 1.5}
    assert found.as_json()["share_of_limit"] == 0.5


def test_seconds_are_better_when_fewer() -> None:
    sides = {"ours": side([1, 1], 0), "theirs": side([3, 3], 0)}
    (found,) = measured([Measure(name="load", unit="s", sides=sides, more=False)], 1)
    assert found.times_as_fast == {"theirs": 3}


def test_turns_are_taken_side_by_side() -> None:
    order = []
    sides = {name: lambda name=name: order.append(name) or (1.0, 0) for name in "ab"}
    measured([Measure(name="one", unit="s", sides=sides)], 2)
    assert order == list("ababab")


@pytest.mark.parametrize("theirs", [["a", "b", "b"], ["a", "a", "b"]])
def test_no_figure_where_outputs_differ(theirs) -> None:
    outputs = iter(theirs)
    sides = {"ours": side([1, 1, 1], "a"), "theirs": lambda: (9.0, next(outputs))}
    (found,) = measured([Measure(name="speed", unit="tokens/s", sides=sides)], 2)
    assert found.figures == {}
    assert found.differ == ("theirs",)
    assert report.in_words(found.as_json())[1] == "no figure: outputs differ"


def test_a_busy_machine_is_said() -> None:
    machine = {"read_gb_s": 9, "gemm_gflop_s": 70, "threads": 1, "cores": 2, "busy": True, "busy_cores": 1.4}
    machine["native_kernels"] = True
    found = {"machine": machine, "rounds": 2, "resident_bytes": None, "weight_bytes": 1, "without_peer": ""}
    assert "1.4 cores busy" in report.notes(found)[-1]
    assert len(report.notes({**found, "machine": {**machine, "busy": False}})) == 1
    assert "no C compiler" in report.notes({**found, "machine": {**machine, "native_kernels": False}})[1]


def test_every_measure_of_a_small_system(polymodal) -> None:
    found = polymodal("bench", SYSTEM, "--rounds", "1", "--tokens", "3", "--json").json
    assert set(found) == KEYS
    names = [each["measure"] for each in found["measures"]]
    assert {"decode", "decode 8 rows", "engine, 16 sampled requests at once", "first token, new picture", "load",
            "server, 16 clients"} <= set(names)  # fmt: skip
    assert all(each["figures"]["polymodal"] > 0 and not each["differ"] for each in found["measures"])
    assert found["without_peer"]


def test_pictures_are_prepared_as_the_library_prepares_them() -> None:
    pytest.importorskip("transformers")
    for found in measured(media.preprocessing(), 1):
        assert not found.differ and found.figures["polymodal"] > 0 and found.figures["transformers"] > 0


def test_near_outputs_are_equal_and_others_are_not() -> None:
    ones = torch.ones(3)
    assert Near(ones, 0.1) == Near(ones + 0.05, 0.1)
    assert Near(ones, 0.1) != Near(ones + 0.2, 0.1)
    assert Near(ones, 0.1) != Near(torch.ones(2), 0.1)
    assert Near(ones, 0.1) != Near(ones * float("nan"), 0.1)


def test_every_round_asks_the_server_something_else(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(server, "ask", lambda port, number, new: asked.append(number) or (new, "x"))
    found = measured(server.measures(0, 4), 2)
    assert len(asked) == len(set(asked)) == 3 * 2 * sum(server.CLIENTS)
    assert not any(each.differ for each in found)


def test_a_plot_is_drawn(polymodal, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "speed.png"
    polymodal("bench", SYSTEM, "--rounds", "1", "--tokens", "2", "--no-server", "--no-peer", "--plot", str(path))
    with Image.open(path) as drawn:
        assert drawn.width > 300
        assert len(drawn.convert("RGB").getcolors(1 << 20)) > 2  # bars, not an empty sheet


def test_a_server_that_refuses_is_an_error(monkeypatch) -> None:
    from polymodal.errors import WeightsError
    from polymodal.serve.app import create_app
    from served import SETTINGS, running

    with running(create_app({}, SETTINGS)) as address, pytest.raises(WeightsError, match="answered 404"):
        server.load(int(address.rpartition(":")[2]), 1, 2)
