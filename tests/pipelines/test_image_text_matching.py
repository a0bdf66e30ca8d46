"""classify and embed of the fusion encoders through published folders with a WordPiece tokenizer."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import polymodal as pm
from polymodal.check import randomise
from polymodal.check.demo import write_config, write_weights
from polymodal.check.evidence import blip, flava
from polymodal.systems.blip.checkpoint import MATCH

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "a", "cat", "dog", "##s", "red"]


def folder(place: Path, system, config: dict) -> Path:
    """Random weights, a tokenizer and settings, as a repository has them."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    pipeline = Tokenizer(models.WordPiece(vocab={w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    pipeline.normalizer = normalizers.BertNormalizer(lowercase=True)
    pipeline.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pipeline.add_special_tokens(WORDS[:4])
    pipeline.save(str(place / "tokenizer.json"))
    (place / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]"}))
    write_config(place, config=config, preprocessor_config={"size": {"height": 64, "width": 64},
                                                            "crop_size": {"height": 64, "width": 64}})  # fmt: skip
    model_spec = system.formats[0].model_spec(config)
    module = model_spec.build()
    randomise.fill(module)
    write_weights(place, module, model_spec.keys[0])
    return place


@pytest.mark.parametrize(("system", "config"), [(blip.SYSTEM, blip.small(MATCH)), (flava.SYSTEM, flava.small())])
def test_probabilities_and_vectors_do_not_depend_on_the_other_sentences(tmp_path: Path, system, config) -> None:
    model = pm.load(folder(tmp_path, system, config))
    picture = pm.image(np.random.default_rng(0).integers(0, 255, (80, 60, 3), dtype=np.uint8))
    labels = ["a cat", "A red dog dogs", "dog"]
    found = {label.label: label.probability for label in model.classify(picture, labels)}
    assert sum(found.values()) == pytest.approx(1, abs=1e-5)
    pair = {label.label: label.probability for label in model.classify(picture, labels[:2])}
    assert pair["a cat"] / pair["A red dog dogs"] == pytest.approx(found["a cat"] / found["A red dog dogs"], rel=1e-3)
    vectors = model.embed([picture, pm.text("a cat"), pm.text("A CAT")])
    assert vectors.norm(dim=-1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    assert torch.allclose(vectors[1], vectors[2])
