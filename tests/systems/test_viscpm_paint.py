"""VisCPM-Paint: the picture of the official code, number by number; batches, a folder without a codec, refusals."""

import json
from pathlib import Path

import pytest
import torch
from test_viscpm import vocabulary

import polymodal as pm
from polymodal.check import randomise
from polymodal.check.fixture import official_weights, read, store
from polymodal.errors import ConfigError, PromptError
from polymodal.pipelines.image_generation import PaintRequest
from polymodal.systems.viscpm import SYSTEM, paint
from polymodal.train.objectives import Denoising


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the official code was run on, with the codec beside it."""
    folder = vocabulary(tmp_path_factory.mktemp("paint"))
    about, _ = read("viscpm_paint")
    (folder / "config.json").write_text(about["config"])
    store(official_weights(about), folder / about["file"], "")
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text(about["vae"])
    codec = randomise.state(json.loads(about["vae_shapes"]))
    store(codec, folder / "vae" / "diffusion_pytorch_model.safetensors", "")
    return folder


@pytest.fixture(scope="module")
def model(folder: Path) -> pm.Model:
    return pm.load(folder)


def test_a_picture_is_that_of_the_official_code(model: pm.Model) -> None:
    about, stored = read("viscpm_paint")
    text, seed = json.loads(about["texts"])[0], int(about["seed"])
    painter = model._parts.paint
    assert painter is not None
    found = painter.pixels(PaintRequest(text=text, seeds=(seed,)))[0]
    assert (found - stored["out.picture"]).abs().max() < 1e-4
    seen = []
    drawn = model.draw(text, seed=seed - 1, n=2, step=lambda done, whole: seen.append((done, whole))).media["image"]
    assert [picture.size for picture in drawn] == [(16, 16)] * 2
    assert drawn[1].tobytes() == (found * 255).round().to(torch.uint8).numpy().tobytes()
    assert (seen[0], seen[-1], len(seen)) == ((1, 100), (100, 100), 100)
    assert model.draw(text, seed=seed, size=(32, 24)).media["image"][0].size == (32, 24)


def test_ids_of_a_wish_are_the_official_ones(model: pm.Model) -> None:
    about, stored = read("viscpm_paint")
    painter = model._parts.paint
    assert painter is not None
    size = json.loads(about["config"])["vocab_size"]
    batch = painter.encode([*json.loads(about["texts"]), ""])
    assert torch.equal(batch["input_ids"] % size, stored["in.input_ids"])
    assert torch.equal(batch["input_ids"] // size, stored["in.input_id_subs"])
    assert torch.equal(batch["attention_mask"], stored["in.attention_mask"])


def test_refusals_say_what_was_expected(folder: Path, model: pm.Model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="size 10x16: expected sides in multiples of 4 pixels, 2,097,152 pixels in"):
        model.draw("a cat", size=(10, 16))
    with pytest.raises(PromptError, match="expected one text"):
        model.draw("a cat", pm.text("it"), pm.image(torch.zeros(8, 8, 3, dtype=torch.uint8).numpy()))
    with pytest.raises(PromptError, match=r"tokens .* for a limit of 3512"):
        model.draw("a cat " * 2000)
    for name in ("config.json", "vocab.txt", "viscpm_paint_balance_checkpoint.pt"):
        (tmp_path / name).symlink_to(folder / name)
    with pytest.raises(ConfigError, match=r"vae has no config.json: .* put its folder vae there"):
        pm.load(tmp_path).draw("a cat")


def test_a_batch_is_noise_to_see_or_pictures_to_learn(model: pm.Model) -> None:
    module, ids = model.module, torch.tensor([[6, 8, 7]])
    grid, times = torch.zeros(1, 4, 8, 8), torch.tensor([5])
    with pytest.raises(ConfigError, match=r"expected noisy_latents and timesteps, .* found latents"):
        module(input_ids=ids, latents=grid)
    with pytest.raises(ConfigError, match="does not know the input 'pixel_values'"):
        module(input_ids=ids, pixel_values=grid)
    learned = module(input_ids=ids, latents=grid, noise=grid + 1, timesteps=times)
    assert learned.loss is not None and torch.equal(learned.loss, learned.losses["noise"])
    loss = Denoising().build(module)
    torch.manual_seed(0)
    assert set(loss(module, {"input_ids": ids, "latents": grid})) == {"noise"}
    with pytest.raises(ConfigError, match="needs latents of pictures"):
        loss(module, {"input_ids": ids})
    with pytest.raises(ConfigError, match="by a LatentDiffusion, not by a Linear"):
        Denoising().build(torch.nn.Linear(1, 1))


def test_a_file_by_itself_has_the_published_unet() -> None:
    from polymodal.systems.viscpm.checkpoint import BEE_10B

    names = {f"llm.encoder.layers.{i}.ffn.ffn.w_in.w_0.weight": (10240, 4096) for i in range(48)}
    names |= {"llm.encoder.layers.0.self_att.self_attention.project_q.weight": (4096, 4096),
              "llm.input_embedding.weight": (86583, 4096), "llm.position_bias.relative_attention_bias": (512, 32),
              "trans_block.w_out_res.weight": (1024, 4096)}  # fmt: skip
    assert paint.infer(names) == {"model_type": "viscpm-paint", **BEE_10B, "unet": {}} == SYSTEM.variants[1].config
    assert paint.infer({**names, "trans_block.w_out_res.weight": (768, 4096)}) is None
