"""`show --plan`: what training will need, in words and as JSON."""

import pytest


def test_a_plan_of_published_sizes(polymodal):
    found = polymodal("show", "llava-1.5", "--plan", "--gpus", "8", "--stage", "instruct", "--json").json
    assert found["machine"]["devices"] == 8 and "assumed" in found["machine"]["source"]
    (stage,) = found["stages"]
    assert stage["stage"] == "instruct" and stage["steps"] == 5198 and stage["length"] == 2048
    # 12 bytes a trained parameter and 4 a frozen one, over 8 devices: 7.1 billion, of which the tower is frozen
    held = sum(stage["memory"][name] for name in ("parameters", "gradients", "optimiser"))
    assert held == pytest.approx((4 * stage["parameters"] + 12 * stage["trained"]) / 8, rel=1e-6)
    # anchors: 6 operations a parameter and token, and the tower and attention on top
    assert stage["operations"] == pytest.approx(6 * 6.6e9 * 128 * 2048, rel=0.1)
    assert stage["seconds"] == pytest.approx(stage["operations"] / (8 * 790e12 * 0.4))
    assert stage["checkpointed_total"] < stage["total"] and stage["hours"] < stage["checkpointed_hours"]
    assert stage["total"] == sum(stage["memory"].values())


def test_more_devices_need_less_each_and_longer_samples_more(polymodal):
    def of(*given):
        return polymodal("show", "cogvlm", "--plan", "--stage", "instruct", "--json", *given).json["stages"][0]

    one, two, long = of("--gpus", "1"), of("--gpus", "2"), of("--gpus", "1", "--length", "4096", "--micro-batch", "2")
    assert two["memory"]["optimiser"] * 2 == pytest.approx(one["memory"]["optimiser"])
    assert two["hours"] == pytest.approx(one["hours"] / 2)
    assert long["memory"]["activations"] > 3 * one["memory"]["activations"] and long["length"] == 4096
    assert "its precision is not published: float32" in one["notes"]


def test_a_plan_for_this_machine_in_words(polymodal):
    words = polymodal("show", "clip:b-32", "--plan").out
    assert "measured on this machine" in words and "contrastive" in words and "together" in words


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--gpus", "2"], "--gpus and --tflops are for --plan"),
        (["--plan", "--stage", "allign"], "llava-1.5 has no stage 'allign'; it has align, instruct, instruct-lora"),
        (["--plan", "--svg", "x.svg"], "--plan draws no picture"),
        (["--plan", "--gpus", "2", "--efficiency", "0"], "plan: efficiency cannot be 0"),
    ],
)
def test_mistakes_are_named(polymodal, given, said):
    outcome = polymodal("show", "llava-1.5", *given)
    assert outcome.code == 2 and said in outcome.err
