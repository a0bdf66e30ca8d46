"""MTFN, TFN, LMF: padding as MMSA has it, and bad input refused by name."""

import json

import pytest
import torch

from polymodal.check.evidence.mtfn import SMALL, samples
from polymodal.check.fixture import official_weights, read
from polymodal.errors import ConfigError, PromptError
from polymodal.systems import get
from polymodal.train.affect import TaskScores

SPEC = get("mtfn").formats[0].model_spec


def test_padding_counts_as_in_mmsa_whatever_the_batch():
    """Rows cut to their lengths, or padded further, give what MMSA gives of its fixed lengths."""
    about, tensors = read("mtfn")
    given = {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}
    spec = SPEC(json.loads(about["config"]))
    model = spec.build().eval()
    model.load_state_dict(dict(spec.keys[0].apply(official_weights(about))))
    wanted = tensors["out.predictions.score"]
    for row in range(len(wanted)):
        cut = {name: given[name][row : row + 1, : int(given[f"{name}_lengths"][row])] for name in SMALL["features"]}
        if min(x.shape[1] for x in (cut["audio"], cut["vision"])) > 1:
            assert torch.allclose(model(**cut).predictions["score"], wanted[row : row + 1], atol=1e-6)
    longer = {name: torch.nn.functional.pad(given[name], (0, 0, 0, 5), value=9.0) for name in SMALL["features"]}
    lengths = {name: value for name, value in given.items() if name.endswith("_lengths")}
    assert torch.allclose(model(**longer, **lengths).predictions["score"], wanted, atol=1e-6)


def test_scores_of_sims_and_their_bounds():
    data = samples()
    labels = data.pop("labels")
    model = SPEC(SMALL).build()
    assert list(model(**data).predictions) == ["score", "text", "audio", "vision"]
    assert model(**data).predictions["score"].abs().max() < 3
    losses = TaskScores(weights={"score": 0.6, "text": 0.4, "audio": 0.0, "vision": 1.0}).build(model)(
        model, {**data, "labels": labels}
    )
    assert losses["audio"] == 0 and losses["vision"] > 0


def test_refusals():
    data = samples()
    model = SPEC(SMALL).build()
    with pytest.raises(PromptError, match=r"vision must be \[B, T, 12\] or \[B, 12\], found \[96, 16, 5\]"):
        model(**{**data, "vision": data["vision"][..., :5], "labels": None})
    with pytest.raises(PromptError, match="found no audio"):
        model(**{**data, "audio": None, "labels": None})
    tasks = TaskScores(weights={"score": 1.0, "text": 1.0}).build(model)
    with pytest.raises(ConfigError, match=r"labels of several scores are \[B, 2\] \(score, text\), found \[96, 4\]"):
        tasks(model, data)
    alone = SPEC({**SMALL, "heads": {"fusion": 16}}).build()
    with pytest.raises(ConfigError, match="the model has no score of text; it has score"):
        tasks(alone, {**data, "labels": data["labels"][:, :2]})
    for change, words in (
        ({"heads": {"fusion": 3}, "rank": 2}, "none with a rank; found fusion with rank 2"),
        ({"heads": {"text": 3}}, "heads must be fusion alone or fusion, text, audio, vision"),
        ({"seq_lens": {"face": 3}}, "seq_lens names 'face'"),
        ({"hidden": {"text": 3}}, "hidden must have the keys text, audio, vision"),
        ({"width": 3}, "mtfn: "),
    ):
        with pytest.raises(ConfigError, match=words):
            SPEC({**SMALL, **change})
