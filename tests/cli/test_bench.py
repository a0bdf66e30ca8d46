"""`bench`: by turns, medians, no figure where outputs differ; every measure of a small system runs."""

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from polymodal.cli.speed import llava, media, report, server
from polymodal.cli.speed.rounds import Measure, Near, measured
from polymodal.errors import StorageError, WeightsError

SYSTEM = "tests/cli/tiny_system.py"
KEYS = {"model", "rounds", "machine", "without_peer", "resident_bytes", "peak_bytes", "weight_bytes",
        "measures"}  # fmt: skip


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
    ((name, figure, sides, *_),) = report.in_words(found.as_json())
    assert (name, figure, sides) == ("speed", "no figure: outputs differ", "theirs")


def test_ratios_stand_beside_their_aims() -> None:
    sides = {"ours": side([9, 4], 0), "a": side([9, 2], 0), "b": side([9, 8], 0), "c": side([9, 1], 0)}
    (found,) = measured([Measure(name="speed", unit="tokens/s", sides=sides, aims={"a": 1.5, "b": 1.0, "d": 1})], 1)
    assert found.as_json()["reached"] == {"a": True, "b": False}
    assert report.in_words(found.as_json()) == [
        ("speed", "4 tokens/s", "a 2", "2.00 x", "1.5 x, reached", ""),
        ("", "", "b 8", "0.50 x", "1 x, missed", ""),
        ("", "", "c 1", "4.00 x", "", ""),
    ]


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
    assert 0 < found["weight_bytes"] < found["resident_bytes"] <= found["peak_bytes"]


def test_pictures_are_prepared_as_the_library_prepares_them() -> None:
    pytest.importorskip("transformers")
    for found in measured(media.preprocessing(), 1):
        assert not found.differ and found.figures["polymodal"] > 0 and found.figures["transformers"] > 0


@pytest.fixture(params=[True, False], ids=["tied head", "own head"])
def pair(request):
    """A tiny LLaVA around a tiny LLaMA, in both libraries."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.LlamaConfig(**sizes, vocab_size=300, tie_word_embeddings=request.param)
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    peer = transformers.LlamaForCausalLM(config).eval()
    with llava.pair_of(peer, Image.fromarray(media.pixels()), vision) as found:
        yield found


def test_a_picture_beside_the_library(pair) -> None:
    for found in measured(llava.measures(pair), 1):
        assert not found.differ and all(seconds > 0 for seconds in found.figures.values()), found.measure.name


def test_the_second_turn_encodes_nothing(pair) -> None:
    calls = []
    pair.engine.model.encoders["image"].register_forward_hook(lambda *_: calls.append(1))
    first, both = pair.turns
    llava.warm(pair, first, both)
    assert len(calls) == 1
    llava.cold(pair, both)
    assert len(calls) == 2


def test_a_wrong_weight_leaves_no_figure(pair) -> None:
    with torch.no_grad():
        for each in pair.theirs.parameters():
            each.copy_(-each)
    assert any(found.differ == ("transformers",) for found in measured(llava.measures(pair)[:1], 1))


def test_a_full_disk_is_said_before_anything_is_written(monkeypatch) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    peer = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, vocab_size=300))
    monkeypatch.setattr(llava.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1))
    with pytest.raises(StorageError, match="TMPDIR"), llava.pair_of(peer, None):
        pass


def test_there_is_no_pair_without_a_llama() -> None:
    for peer in (None, torch.nn.Linear(2, 2)):
        with llava.pair_of(peer, None) as found:
            assert found is None


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
    assert len(asked) == len(set(asked)) == 3 * 2 * (server.CLIENTS + 1)
    assert not any(each.differ for each in found)


def test_a_plot_is_drawn(polymodal, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "speed.png"
    polymodal("bench", SYSTEM, "--rounds", "1", "--tokens", "2", "--no-server", "--no-peer", "--plot", str(path))
    with Image.open(path) as drawn:
        assert drawn.width > 300
        assert len(drawn.convert("RGB").getcolors(1 << 20)) > 2  # bars, not an empty sheet


def test_a_server_that_refuses_is_an_error(monkeypatch) -> None:
    from polymodal.serve.app import create_app
    from served import SETTINGS, running

    with running(create_app({}, SETTINGS)) as address, pytest.raises(WeightsError, match="answered 404"):
        server.load(int(address.rpartition(":")[2]), 1, 2)
