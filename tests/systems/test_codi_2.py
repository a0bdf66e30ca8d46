"""CoDi-2: its prompt, what a pipeline is handed, what is refused."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import polymodal as pm
from polymodal.check import imagebind_lm
from polymodal.check.evidence import codi_2
from polymodal.data.messages import Message
from polymodal.errors import ConfigError, PromptError
from polymodal.generators.diffusion import run_pipeline
from polymodal.systems import CheckpointFiles, get
from polymodal.systems.codi_2.checkpoint import NEGATIVE, UNCLIP
from polymodal.train.feature_regression import FeatureRegression

SYSTEM = get("codi-2")
PICTURE = Image.new("RGB", (30, 20), "red")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random CoDi-2 that writes bytes."""
    made = tmp_path_factory.mktemp("codi-2")
    codi_2.marked_folder(made)
    return made


def test_every_word_is_a_text_of_its_own(folder) -> None:
    model = pm.load(folder)
    words = model.processor.tokenizer
    asked = Message(role="user", parts=(pm.text("Draw  this "), pm.image(PICTURE), pm.text("as ice")))
    row = model.processor([asked], generate=True)
    before, after = (
        [each for word in text for each in words.encode(word)] for text in (("Draw", "this"), ("as", "ice"))
    )
    assert row["input_ids"][0].tolist() == [words.bos_id, *before, *[-1] * 17, *after]
    answer = Message(role="assistant", parts=(pm.text("Here <p>"), pm.image(PICTURE)))
    whole = model.processor([asked, answer])
    labels = whole["labels"][0]
    learned = labels[labels != -100].tolist()
    assert learned[: len(words.encode("Here"))] == words.encode("Here") and int((whole["input_ids"] == -1).sum()) == 34
    with pytest.raises(PromptError, match="expected user, assistant"):
        model.processor([answer])


def test_a_vector_goes_to_an_unclip_pipeline() -> None:
    pytest.importorskip("diffusers")
    from polymodal.check.diffusion_pipelines import tiny_unclip

    vector = torch.randn(1, 48, generator=torch.Generator().manual_seed(0))
    pictures = run_pipeline(tiny_unclip(48), vector, UNCLIP, num_inference_steps=2)
    assert [picture.size for picture in pictures] == [(16, 16)]
    assert dict(UNCLIP.extra)["negative_prompt"] == NEGATIVE and dict(UNCLIP.extra)["noise_level"] == 500
    with pytest.raises(ConfigError, match=r"expected a condition \[1, 1, E\]"):
        run_pipeline(tiny_unclip(48), torch.zeros(2, 48), UNCLIP)


def test_what_is_foretold_stands_at_items() -> None:
    model = codi_2.tiny()
    loss = FeatureRegression().build(model)
    ids = torch.tensor([[1, *codi_2.SEEN, 7]])
    batch = {"input_ids": ids, "vision": torch.zeros(1, 3, 224, 224), "labels": ids.masked_fill(ids < 0, -100)}
    assert "features" not in loss(model, batch)
    with pytest.raises(PromptError, match="where no item stands"):
        loss(model, {**batch, "wanted": ids == 7})
    with pytest.raises(PromptError, match="a token before it"):
        loss(model, {**batch, "wanted": torch.ones_like(ids, dtype=torch.bool)})
    found = loss(model, {**batch, "wanted": ids == -1})
    assert -0.1 <= found["features"].item() <= 0.1
    with pytest.raises(ConfigError, match="not by Linear"):
        FeatureRegression().build(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"signal_ids": []}, "signal_ids: expected ids below 48"),
        ({"signal_ids": [48]}, "signal_ids: expected ids below 48"),
        ({"perception_len": 257}, r"unknown options \['perception_len'\]"),
    ],
)
def test_damaged_configs_are_refused(change, told) -> None:
    with pytest.raises(ConfigError, match=told):
        SYSTEM.formats[0].model_spec({**imagebind_lm.config("codi-2", signal_ids=[5]), **change})


def test_a_tokenizer_that_writes_the_mark_otherwise_is_refused(folder) -> None:
    llama = {**imagebind_lm.LLAMA, "vocab_size": 30_000}
    spec = SYSTEM.formats[0].model_spec({**imagebind_lm.config("codi-2"), "llama": llama})
    assert spec.assemble is not None
    with pytest.raises(ConfigError, match='the tokenizer writes "<p>" as'):
        spec.assemble(codi_2.tiny(), CheckpointFiles(folder))
