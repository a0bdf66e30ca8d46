"""RoboFlamingo: the loop of a robot step by step, losses, prompt, actions, refusals."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import polymodal as pm
from polymodal import systems
from polymodal.check import randomise
from polymodal.check.demo import byte_tokenizer, write_config, write_weights
from polymodal.check.evidence.roboflamingo import small
from polymodal.check.fixture import official_weights, read, store
from polymodal.cli.app import app
from polymodal.data.actions import CALVIN, RobotAction
from polymodal.errors import ConfigError, PromptError
from polymodal.pipelines.acting import Acting
from polymodal.systems.roboflamingo import SYSTEM
from polymodal.systems.roboflamingo.checkpoint import END, IMAGE, LAST, PAD, parse_config, prompt, published
from polymodal.weights.load import expected_shapes, fitting

FIXTURES = ("roboflamingo", "roboflamingo_pre", "roboflamingo_neox", "roboflamingo_mpt")
SPECIALS = {LAST: 0, END: 257, IMAGE: 258, PAD: 259}


def official(name: str, folder: Path):
    """A fixture's model, its config and tensors."""
    about, tensors = read(name)
    config = json.loads(about["config"])
    write_config(folder, config=config)
    store(official_weights(about), folder / about["file"], about["entry"])
    return pm.load(folder), config, tensors


@pytest.mark.parametrize("name", FIXTURES)
def test_acts_as_the_official_loop_within_and_beyond_the_window(name: str, tmp_path: Path) -> None:
    model, config, tensors = official(name, tmp_path)
    window = config["window_size"]
    static, gripper = (randomise.values(f"stream_{view}", (2 * window + 1, 3, 21, 21)) for view in ("x", "gripper"))
    mask = tensors["in.attention_mask"][0].bool()
    ids = tensors["in.input_ids"][0][mask].tolist()
    acting = Acting(model.module, ids, lambda picture: picture, window=window, space=CALVIN)
    acted = torch.stack([acting(pair) for pair in zip(static, gripper, strict=True)])
    assert (acted - tensors["out.acted"]).abs().max() < 1e-3  # handed on in half precision
    assert torch.equal(acted[:, 6], tensors["out.acted"][:, 6])


@pytest.mark.parametrize("name", FIXTURES)
def test_losses_are_the_official_ones(name: str, tmp_path: Path) -> None:
    model, config, tensors = official(name, tmp_path)
    window = config["window_size"]
    given = {key: tensors[f"in.{key}"] for key in ("input_ids", "attention_mask")}
    given |= {key: randomise.values(key, (2, window, 3, 21, 21)) for key in ("vision_x", "vision_gripper")}
    actions = randomise.values("actions", (2, window, 7)).clamp(-1, 1)
    actions[..., 6] = torch.where(actions[..., 6] > 0, 1.0, -1.0)
    output = model(**given, labels=actions)
    for part in ("pose", "gripper"):
        assert abs(output.losses[part] - tensors[f"out.loss.{part}"].item()) < 1e-6


def test_the_last_layer_of_mosaic_gpt_does_not_act() -> None:
    about, _ = read("roboflamingo")
    spec = parse_config(json.loads(about["config"]))
    module = spec.build()
    assert len(module.backbone.blocks) == 2 and module.backbone.norm is None
    _, report = fitting(spec.keys, official_weights(about), expected_shapes(module))
    dropped = {name for name in report.dropped if name.startswith("lang_encoder.")}
    assert dropped and all("blocks.2." in name or "ln_f" in name for name in dropped)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    config = small(byte_tokenizer(tmp_path, SPECIALS), SPECIALS[IMAGE])
    write_config(tmp_path, config=config)
    torch.manual_seed(0)
    spec = SYSTEM.formats[0].model_spec(config)
    write_weights(tmp_path, spec.build(), spec.keys[0])
    return tmp_path


def test_the_prompt_is_the_official_one(folder: Path) -> None:
    words = systems.CheckpointFiles(folder).tokenizer(added=(END, IMAGE, PAD), eos=LAST, pad=PAD)
    ids = prompt(words, "  lift it\n")
    assert words.decode(ids, skip_special=False) == "<image>lift it<|endofchunk|><|endoftext|>"
    with pytest.raises(PromptError, match=r"takes 43 tokens .* expected 32 at most"):
        prompt(words, "x" * 40)
    with pytest.raises(PromptError, match="needs an instruction"):
        prompt(words, "  ")


def test_an_episode_remembers_and_is_refused_what_is_no_step(folder: Path) -> None:
    model = pm.load(folder)
    assert "act" in model.can and "predict" in model.can and "chat" not in model.can
    static, gripper = (Image.new("RGB", (200, 200), colour) for colour in ("red", "blue"))
    episode = model.episode("lift it")
    first, second = episode.step(static, gripper), episode.step(gripper, static)
    assert episode.steps == 2
    assert model.episode("lift it").step(gripper, static) != second  # without what was seen before
    assert model.episode("lift it").step(static, gripper) == first
    assert all(abs(x) <= 0.02 for x in first.position) and all(abs(x) <= 0.05 for x in first.rotation)
    with pytest.raises(PromptError, match="2 pictures, static camera and gripper camera; found 1 picture"):
        episode.step(static)
    with pytest.raises(PromptError, match="pictures; of gripper camera it found text"):
        episode.step(static, pm.text("x"))


def test_actions_are_read_as_they_are_written() -> None:
    action = RobotAction(position=(0.01, -0.02, 0.004), rotation=(0.05, 0.0, -0.01), gripper_open=True)
    values = CALVIN.write(action)
    assert values == pytest.approx([0.5, -1, 0.2, 1, 0, -0.2, 1])
    again = CALVIN.read(values)
    assert again.position == pytest.approx(action.position) and again.rotation == pytest.approx(action.rotation)
    assert again.gripper_open and CALVIN.write(again) == pytest.approx(values)
    far = RobotAction(position=(0.5, 0, 0), rotation=(0, 0, -9), gripper_open=False)
    assert CALVIN.write(far) == [1, 0, 0, 0, 0, -1, -1]
    for wrong in ([0.0] * 6, [0, 0, 0, 0, 0, 0, 0.5], [2, 0, 0, 0, 0, 0, 1], [float("nan")] + [0] * 5 + [1]):
        with pytest.raises(PromptError, match="expected 7 numbers"):
            CALVIN.read(wrong)
    with pytest.raises(PromptError, match="three finite numbers"):
        CALVIN.write(RobotAction(position=(float("inf"), 0, 0), rotation=(0, 0, 0), gripper_open=True))


@pytest.mark.parametrize(
    ("name", "value"),
    [("decoder_type", "diffusion"), ("use_state", True), ("residual", True), ("multi_step_action", 3),
     ("fusion_mode", "two_way"), ("pooling", "median"), ("policy_config", {"width": 3})],
)  # fmt: skip
def test_options_that_are_not_built_are_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=name):
        SYSTEM.formats[0].model_spec({**small(60, 59), name: value})


def test_other_language_models_are_refused() -> None:
    config = small(60, 59)
    with pytest.raises(ConfigError, match="llama"):
        SYSTEM.formats[0].model_spec({**config, "text_config": {"model_type": "llama"}})
    with pytest.raises(ConfigError, match="n_layers 2 or more"):
        SYSTEM.formats[0].model_spec({**config, "text_config": {**config["text_config"], "n_layers": 1}})


def test_cameras_must_agree(folder: Path) -> None:
    model, ids = pm.load(folder), torch.tensor([[258, 3, 257]])
    pictures = torch.zeros(1, 2, 3, 32, 32)
    with pytest.raises(PromptError, match="found no vision_gripper"):
        model.predict(input_ids=ids, vision_x=pictures)
    with pytest.raises(PromptError, match="both cameras as"):
        model.predict(input_ids=ids, vision_x=pictures, vision_gripper=pictures[:, :1])
    with pytest.raises(ConfigError, match="does not know the input 'pixel_values'"):
        model.predict(input_ids=ids, vision_x=pictures, vision_gripper=pictures, pixel_values=pictures)


def test_a_released_file_is_known_by_its_shapes() -> None:
    shapes = {name: tuple(shape) for name, shape in json.loads(read("roboflamingo")[0]["shapes"]).items()}
    assert SYSTEM.formats[0].infer(shapes) is None  # of no released width
    released = {"module.perceiver.latents": (64, 1024), "module.lang_encoder.transformer.wte.weight": (50280, 2048)}
    assert SYSTEM.formats[0].infer(released) is None  # OpenFlamingo's own
    released["module.lm_head.rnn.weight_ih_l0"] = (4096, 2048)
    assert SYSTEM.formats[0].infer(released) == published("3b")


def test_the_command_line_acts(folder: Path, tmp_path: Path) -> None:
    names = []
    for index, colour in enumerate(("red", "blue", "green", "black")):
        Image.new("RGB", (64, 48), colour).save(tmp_path / f"{index}.png")
        names.append(str(tmp_path / f"{index}.png"))
    words = ["-i", "lift it", "-m", str(folder)]
    found = CliRunner().invoke(app, ["act", *names, *words, "--json"])
    steps = json.loads(found.stdout)["steps"]
    assert [row["step"] for row in steps] == [1, 2]
    episode = pm.load(folder).episode("lift it")
    assert list(episode.step(*names[:2]).position) == pytest.approx(steps[0]["position"])
    plain = CliRunner().invoke(app, ["act", *names, *words]).stdout.splitlines()
    assert len(plain) == 2 and plain[0].startswith("1: move ") and "gripper" in plain[0]
    wrong = CliRunner().invoke(app, ["act", *names[:3], *words])
    assert isinstance(wrong.exception, PromptError) and "found 3 pictures in all" in str(wrong.exception)
