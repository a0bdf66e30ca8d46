"""Ids of a picture's patches: by a codebook, by a visual tokenizer from a folder, loaded once a run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

import method_folders
import polymodal as pm
import stage_folders
from polymodal.api import training
from polymodal.api.training import TrainOptions
from polymodal.check import randomise
from polymodal.data.datasets.sample import Sample
from polymodal.data.media import Image
from polymodal.errors import ConfigError, PromptError
from polymodal.generators.dalle_codec import map_pixels
from polymodal.systems.flava.checkpoint import parse_codec_config
from polymodal.train.picture_codes import PictureCodec, codebook_transform, codes_of

PICTURE = Image(Pillow.fromarray(np.random.default_rng(0).integers(0, 255, (40, 50, 3), "uint8")))


def test_a_codebook_names_each_patch_at_its_own_size() -> None:
    spec = parse_codec_config({"hidden_size": 8, "vocab_size": 12})
    module = spec.build().eval()
    randomise.fill(module)
    found = PictureCodec(module)(PICTURE, (3, 4))
    seen = map_pixels(codebook_transform((3, 4))(PICTURE)[None])
    assert seen.shape == (1, 3, 24, 32) and torch.equal(found, module(pixel_values=seen).logits.argmax(1).flatten())
    with pytest.raises(
        ConfigError, match="expected a visual tokenizer of BEiT v2 or a FlavaImageCodebook, found a Lin"
    ):
        PictureCodec(torch.nn.Linear(1, 1))
    sample = Sample(name="a", arrays={"codes": pm.array(np.array([0, 12]), "codes")})
    with pytest.raises(PromptError, match="codes are 0 to 11 for this model, found 0 to 12"):
        codes_of(sample, PICTURE, (1, 2), None, 12)


def test_the_codec_of_a_folder_is_loaded_once_and_gives_its_tokens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, folder in (("beit-v2", "model"), ("beit-v2:tokenizer", "codec")):
        (tmp_path / folder).mkdir()
        method_folders.WRITTEN[name](tmp_path / folder)
    opened, load = [], training.load
    monkeypatch.setattr(training, "load", lambda *given, **more: opened.append(given) or load(*given, **more))
    settings = ["budget.batch=4", "budget.steps=1", "budget.precision=float32", "optimizer.lr=0.001"]
    model = pm.load(tmp_path / "model", dtype="float32")
    options = TrainOptions(codec=str(tmp_path / "codec"))
    training.fit(model, [stage_folders.pictures(tmp_path)], out=tmp_path / "run", stage="masked-pictures",
                 settings=settings, options=options)  # fmt: skip
    assert len(opened) == 1
    tokenizer = pm.load(tmp_path / "codec")
    found = PictureCodec(tokenizer.module)(PICTURE, (8, 8))
    assert torch.equal(found, tokenizer.predict(**tokenizer.processor(images=[PICTURE]))["tokens"].flatten())
    with pytest.raises(ConfigError, match="--codec names 8 x 8 patches, the model has 4 x 4"):
        PictureCodec(tokenizer.module)(PICTURE, (4, 4))
