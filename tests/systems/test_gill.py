"""GILL as a user meets it: prompts, published files in one folder, pictures by `draw` and by vectors, refusals."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import polymodal as pm
from polymodal.check.evidence import gill
from polymodal.check.fixture import official_weights, read, store
from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.template import written
from polymodal.errors import ConfigError, PromptError, WeightsError
from polymodal.systems.gill.prompt import InterleavedFormat
from polymodal.train.signal_objectives import DrawOrFind

CAT = Path(__file__).parents[2] / "examples" / "cat.jpg"
TALK = InterleavedFormat(signal=("[IMG0]", "[IMG1]"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("gill")
    gill.write_tiny_folder(place)
    return place


@pytest.fixture(scope="module")
def model(folder: Path) -> pm.Model:
    return pm.load(folder)


def said(role: str, *parts: Any) -> Message:
    return Message(role=role, parts=tuple(Text(part) if isinstance(part, str) else part for part in parts))


def test_prompts_are_what_the_published_demo_embeds() -> None:
    image = pm.image(CAT)
    assert written(TALK.render([said("user", image, "What is", image, "it?")], ask=True)) == (
        "<image></s>What is<image>it?"
    )
    talk = [said("user", "Q: Draw.\nA:"), said("assistant", " Here: ", image), said("user", "\nQ: Again.\nA:")]
    assert written(TALK.render(talk, ask=True)) == "</s>Q: Draw.\nA: Here: [IMG0][IMG1]\nQ: Again.\nA:"
    with pytest.raises(PromptError, match="found none"):
        TALK.render([], ask=True)


def test_labels_hold_answers_and_the_first_of_their_signals(model: pm.Model) -> None:
    batch = model.processor([[said("user", pm.image(CAT), "Again?"), said("assistant", " Yes ", pm.image(CAT))]])
    learned = batch["labels"][0][batch["labels"][0] >= 0].tolist()
    assert model.processor.tokenizer.decode(learned, skip_special=False) == " Yes [IMG0]"
    assert batch["pixel_values"].shape == (1, 3, 32, 32)


def test_published_files_lie_in_one_folder(tmp_path: Path) -> None:
    about, stored = read("gill_small")
    weights, config = official_weights(about), json.loads(about["config"])
    (tmp_path / "config.json").write_text(json.dumps(config))
    own = {name: x for name, x in weights.items() if not name.startswith(("model.lm.", "model.visual_model."))}
    count = config["num_tokens"]
    decision = {name.removeprefix("decision_model."): own.pop(name) for name in list(own) if "decision" in name}
    own["model.input_embeddings.weight"] = weights["model.input_embeddings.weight"][-count:]
    store(own, tmp_path / "pretrained_ckpt.pth.tar", "state_dict")
    store(decision, tmp_path / "decision_model.pth.tar", "state_dict")
    with pytest.raises(WeightsError, match="expected a folder of OPT and one of CLIP, found none"):
        pm.load(tmp_path)
    for name, prefix, kind in (("opt", "model.lm.", "opt"), ("clip", "model.visual_model.", "clip")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps({"model_type": kind}))
        part = {key.removeprefix(prefix): x.clone() for key, x in weights.items() if key.startswith(prefix)}
        if name == "opt":  # the published table is that of OPT alone, whose last rows no token uses
            table = part["model.decoder.embed_tokens.weight"]
            part["model.decoder.embed_tokens.weight"] = torch.cat((table[:-count], torch.zeros(2, table.shape[1])))
            del part["lm_head.weight"]
        store(part, tmp_path / name / "pytorch_model.bin", "")
    found = pm.load(tmp_path)
    given = {name: stored[f"in.{name}"] for name in ("input_ids", "attention_mask")}
    from polymodal.check import randomise

    given["pixel_values"] = randomise.values("pixel_values", json.loads(about["made"])["pixel_values"])
    mask = given["attention_mask"].bool()
    assert (found.logits(**given)[mask] - stored["out.logits"][mask]).abs().max() < 1e-4


def test_draw_gives_a_picture_for_every_wish(model: pm.Model) -> None:
    told: list[tuple[int, int]] = []
    reply = model.draw("a cat", steps=3, n=2, seed=4, size=(16, 24), max_tokens=3, step=lambda *at: told.append(at))
    first, second = reply.media["image"]
    assert first.size == second.size == (16, 24) and first.tobytes() != second.tobytes()
    assert told[0] == (1, 8) and told[-1] == (8, 8)
    again = model.draw("a cat", steps=3, seed=5, size=(16, 24), max_tokens=3).media["image"][0]
    assert again.tobytes() == second.tobytes()


@pytest.mark.parametrize("steps", [0, 10_000, -3])
def test_steps_that_no_diffusion_has_cost_a_line(model: pm.Model, steps: int) -> None:
    with pytest.raises(ConfigError, match=f"steps: expected 1 to 1000 steps of diffusion, found {steps}"):
        model.draw("a cat", steps=steps)
    with pytest.raises(ConfigError, match="steps: expected 1 to 1000 steps of diffusion"):
        model.draw("a cat", drawing={"num_inference_steps": steps})


def test_answers_hold_whole_signals(model: pm.Model) -> None:
    first, last = model.module.signals["image"]
    rule = model.module.answer_rule
    assert rule is not None and rule([]) is rule([5]) and last not in rule([]).tolist()
    assert rule([5, first]).tolist() == [last] and first in rule([first, last]).tolist()
    assert model.module.signalled([7, first], "image") == [7, first, last]
    assert model.module.signalled([first, last, 7], "image") == [first, last, 7]


def test_pictures_are_found_by_vectors(model: pm.Model) -> None:
    found = model.embed([pm.image(CAT), pm.text("a cat"), pm.text("a dog")])
    assert found.shape == (3, 32) and torch.allclose(found.norm(dim=-1), torch.ones(3))
    row = model.processor([[said("user", "a cat")]])["input_ids"]
    ids = torch.cat((row, torch.tensor([model.module.signals["image"]])), 1)
    predicted = model.predict(input_ids=ids)
    assert torch.allclose(predicted["retrieval"][0], found[1], atol=1e-5) and predicted["decision"].shape == (1, 2)
    with pytest.raises(PromptError, match="audio"):
        model.embed([pm.audio((torch.zeros(1600).numpy(), 16000))])


def test_only_the_rows_of_signals_learn(folder: Path) -> None:
    module, check = gill.SYSTEM.formats[0].model_spec(gill.small(34)).build(), gill.training_check()
    loss = DrawOrFind().build(module)
    weight = module.backbone.embed_tokens.weight
    losses = loss(module, check.batches(0))
    assert set(losses) == {"caption", "signal", "distance", "contrast"}
    before = weight.detach().clone()
    assert torch.allclose(before[32:].norm(dim=1), before[:32].norm(dim=1).mean())
    sum(losses.values()).backward()
    assert weight.grad[:32].abs().max() == 0 and weight.grad[32:].abs().max() > 0
    with pytest.raises(ConfigError, match="draw_or_find needs signal_ids"):
        loss(module, {"input_ids": torch.tensor([[2, 3]])})
    with pytest.raises(ConfigError, match="a SignalTokenLM that finds pictures is needed, not a Linear"):
        DrawOrFind().build(torch.nn.Linear(1, 1))


def test_the_command_writes_what_is_asked_for(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from polymodal.cli.app import run

    out = tmp_path / "cat.png"
    assert run(["draw", str(folder), "a cat", "--out", str(out), "--steps", "2"]) == 0 and out.is_file()
    capsys.readouterr()
    assert run(["draw", str(folder), "a cat", "--out", str(out), "--steps", "0"]) == 2
    assert "steps: expected 1 to 1000 steps of diffusion, found 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "told"),
    [({"text_fc_mode": "linear"}, "text_fc_mode 'linear' is not supported"),
     ({"share_ret_gen": False}, "share_ret_gen False is not supported")],
)  # fmt: skip
def test_other_options_are_refused_by_name(change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        gill.SYSTEM.formats[0].model_spec({**gill.small(34), **change})
