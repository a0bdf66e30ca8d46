"""ViLBERT beyond its evidence: official files without a config, the answer and match verbs, and what is refused."""

import json

import numpy as np
import pytest
import torch

import polymodal as pm
from polymodal.check import regions
from polymodal.check.evidence.vilbert import small, spec
from polymodal.check.fixture import official_weights, read, store
from polymodal.data.region_features import tsv_line
from polymodal.errors import ConfigError, PromptError
from polymodal.pipelines.region_detectors import grid_boxes
from polymodal.systems.vilbert import SYSTEM
from polymodal.systems.vilbert.checkpoint import PRETRAINED, TASK, read_shapes


def test_sizes_of_every_published_file_are_read_off_its_names() -> None:
    for variant in SYSTEM.variants:
        with torch.device("meta"):
            module = SYSTEM.module(variant)
        names = SYSTEM.model_spec(variant).keys[0].inverse()
        shapes = {name: tuple(x.shape) for name, x in names.apply(module.state_dict())}
        wanted = {name: value for name, value in variant.config.items() if name not in ("hidden_act", "v_hidden_act")}
        assert read_shapes(shapes) == wanted, variant.name
    assert read_shapes({"bert.embeddings.word_embeddings.weight": (3, 4)}) is None


def test_an_official_file_alone_is_recognised() -> None:
    assert SYSTEM.formats[0].matches({"v_biattention_id": [0], "vocab_size": 4})
    assert not SYSTEM.formats[0].matches({"model_type": "bert"})


def test_a_config_of_the_repository_alone_is_the_pretrained_model(tmp_path) -> None:
    about, _ = read("vilbert_pretrained")
    config = {name: value for name, value in json.loads(about["config"]).items() if name != "architectures"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    store(official_weights(about), tmp_path / "pytorch_model.bin", "")
    assert pm.load(tmp_path).module.config.main == "match"


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    config = small(TASK, num_labels=3)
    made = spec(config)
    return regions.stored(tmp_path, config, made, made.build(), ["red", "green", "blue"])


def test_a_question_is_answered_with_named_answers_whose_shares_sum_to_one(folder, tmp_path) -> None:
    line = tsv_line("7", (40, 20), grid_boxes(1, 3) * np.array([40, 20, 40, 20]), np.ones((3, 12)))
    (tmp_path / "features.tsv").write_text(line)
    seen = pm.regions(tmp_path / "features.tsv")
    found = folder.answer("what is it?", seen, top=9)
    assert {each.label for each in found} == {"red", "green", "blue"}
    assert sum(each.probability for each in found) == pytest.approx(1, abs=1e-5)
    logits = folder.logits(**folder.processor([{"role": "user", "content": ["what is it?", seen]}]))
    assert found[0].label == ("red", "green", "blue")[int(logits.argmax())]
    assert len(folder.answer("what is it?", seen, top=1)) == 1


def test_sentences_are_ranked_by_the_match_whose_yes_is_class_nought(folder) -> None:
    picture = pm.image(np.full((16, 16, 3), 200, np.uint8))
    found = {each.label: each.probability for each in folder.classify(picture, ["a cat", "dogs", "a cat?"])}
    batch = folder.processor.batch([picture] * 3, list(found))
    match = folder.predict(**batch)["match"]
    wanted = (match[:, 0] - match[:, 1]).softmax(0)
    assert list(found.values()) == pytest.approx(wanted.tolist(), abs=1e-5)


def test_what_cannot_be_answered_is_refused(folder, tmp_path) -> None:
    picture = pm.image(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ConfigError, match="answer: top must be 1 or more, found 0"):
        folder.answer("what?", picture, top=0)
    with pytest.raises(PromptError, match="expected the regions of one picture and a text, found 2"):
        folder.answer("what?", picture, picture)
    folder.processor.detector = None
    with pytest.raises(PromptError, match="cannot read image; it takes regions, text"):
        folder.answer("what?", picture)
    other = tmp_path / "pretrained"
    other.mkdir()
    config = small(PRETRAINED)
    made = spec(config)
    with pytest.raises(ConfigError, match=r"vilbert:.* cannot answer"):
        regions.stored(other, config, made, made.build(), []).answer("what?", picture)


def test_answers_of_another_number_than_the_head_has_are_refused(tmp_path) -> None:
    config = small(TASK, num_labels=3)
    made = spec(config)
    with pytest.raises(ConfigError, match="2 answers for a head of 3"):
        regions.stored(tmp_path, config, made, made.build(), ["red", "green"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["BertForMaskedLM"]}, "architecture must be .* found BertForMaskedLM"),
        ({"fusion_method": "cat"}, "fusion_method must be mul or sum, found 'cat'"),
        ({"with_coattention": False}, "with_coattention false is not supported"),
        ({"t_biattention_id": [3, 2]}, "places of the exchanges must not go back"),
        ({"t_biattention_id": [3]}, "config.json"),
    ],
)
def test_options_that_are_not_supported_are_named(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        spec(small(PRETRAINED, **change))
