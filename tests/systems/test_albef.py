"""ALBEF beyond its evidence: masked words, shortlist and answer ranking by the official code; whole official files."""

import json

import pytest
import torch

import polymodal as pm
from polymodal.check.fixture import official_weights, read, store
from polymodal.systems.albef import SYSTEM

TOLERANCE = 1e-4
INPUTS = ("pixel_values", "input_ids", "attention_mask")


@pytest.fixture
def model_spec(tmp_path):
    def load(kind: str):
        about, tensors = read(f"albef_{kind}")
        store(official_weights(about), tmp_path / "ALBEF.pth", "model")
        return pm.load(tmp_path / "ALBEF.pth").module, tensors

    return load


@torch.no_grad()
def test_masked_words_equal_the_official_model(model_spec) -> None:
    module, tensors = model_spec("pretrained")
    found = module.masked_words(**{name: tensors[f"in.{name}"] for name in INPUTS})
    real = tensors["in.attention_mask"].bool()
    assert (found - tensors["out.words"])[real].abs().max() <= TOLERANCE


@torch.no_grad()
def test_shortlist_and_rerank_equal_the_official_evaluation(model_spec) -> None:
    module, tensors = model_spec("retrieval")
    states = module.image(tensors["in.pixel_values"])
    by_image, by_text = module.shortlist(states, tensors["in.input_ids"], tensors["in.attention_mask"], keep=2)
    assert (by_image - tensors["out.shortlist"]).abs().max() <= TOLERANCE
    assert by_text.shape == (3, 3)
    assert (by_text == -100).sum() == 3


@torch.no_grad()
def test_answers_are_ranked_as_by_the_official_code(model_spec) -> None:
    module, tensors = model_spec("answer")
    question = {name: tensors[f"in.{name}"] for name in INPUTS}
    states = module.features(**question)["text"]
    answers, mask = tensors["out.answers"], tensors["out.answers_mask"]
    scores = module.rank(states, question["attention_mask"], answers, mask, keep=4)
    order = scores.topk(4, dim=1)
    assert torch.equal(order.indices, tensors["out.ranked"])
    assert (order.values.softmax(1) - tensors["out.ranked_probabilities"]).abs().max() <= TOLERANCE


@pytest.mark.parametrize(
    ("kind", "variant"),
    [("pretrained", "pretrained-14m"), ("retrieval", "mscoco"), ("answer", "vqa"), ("pair", "nlvr2"),
     ("assignment", "pretrained-nlvr")],
)  # fmt: skip
def test_every_name_of_a_whole_official_file_is_used_or_dropped_by_name(kind: str, variant: str) -> None:
    about, _ = read(f"albef_{kind}")
    model_spec = SYSTEM.model_spec(SYSTEM.variant(variant))
    with torch.device("meta"):
        target = model_spec.build().state_dict().keys()
    names = json.loads(about["whole_names"])
    report = min((table.check(names, target) for table in model_spec.keys), key=lambda each: len(each.problems))
    report.require()
    assert not report.new


def test_sizes_are_read_off_the_names_of_an_official_file() -> None:
    for kind, variant in (("pretrained", "pretrained-14m"), ("answer", "vqa"), ("pair", "nlvr2")):
        about, _ = read(f"albef_{kind}")
        shapes = json.loads(about["published_shapes"])
        found = SYSTEM.formats[0].infer(shapes)
        wanted = SYSTEM.variant(variant).config
        assert found["kind"] == wanted["kind"]
        assert found["vision_config"] == wanted["vision_config"]
        assert {**wanted["text_config"], **found["text_config"]} == wanted["text_config"]
