"""DialogueRNN: the official weighted loss, speakers, and bad input refused by name."""

import json

import pytest
import torch

from polymodal.check.evidence.dialoguernn import SMALL, dialogues
from polymodal.check.fixture import official_weights, read
from polymodal.errors import ConfigError, PromptError
from polymodal.systems import get
from polymodal.train.affect import UtteranceClasses

SYSTEM = get("dialoguernn")
SPEC = SYSTEM.formats[0].model_spec


@pytest.mark.parametrize("fixture", ["dialoguernn", "dialoguernn_listeners", "dialoguernn_simple"])
def test_weighted_loss_is_the_official_one(fixture):
    about, tensors = read(fixture)
    weights = official_weights(about)
    spec = SPEC(json.loads(about["config"]) or SYSTEM.formats[0].infer({name: x.shape for name, x in weights.items()}))
    model = spec.build().eval()
    model.load_state_dict(dict(spec.keys[0].apply(weights)))
    batch = {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}
    loss = UtteranceClasses(weights=tuple(tensors["out.weights"].tolist())).build(model)
    found = loss(model, {**batch, "labels": tensors["out.labels"]})["classification"]
    assert abs(found.item() - float(tensors["out.loss"])) < 1e-5
    assert list(loss.state_dict()) == []


def test_what_others_say_reaches_a_listener_only_where_listeners_are_active():
    """The state of a speaker before an utterance does not depend on what another said, but for the common state."""
    torch.manual_seed(0)
    model = SPEC(SMALL).build().eval()
    cell, data = model.forwards, dialogues(0, 2)
    parties = torch.randn(2, 3, 24)
    assert cell.heard(data["text"][:, 0], torch.randn(2, 24), parties) is parties
    active = SPEC({**SMALL, "active_listeners": True}).build().eval().forwards
    assert not torch.equal(active.heard(data["text"][:, 0], torch.randn(2, 24), parties), parties)


def test_refusals():
    model, data = SPEC(SMALL).build(), dialogues(0, 2)
    labels = data.pop("labels")
    with pytest.raises(PromptError, match=r"speakers must be \[B, T\] = \[2, 8\], found none"):
        model(**{**data, "speakers": None})
    with pytest.raises(PromptError, match=r"speakers must be \[B, T\] = \[2, 8\], found \[2, 3\]"):
        model(**{**data, "speakers": data["speakers"][:, :3]})
    with pytest.raises(PromptError, match="3 may speak; speakers must be 0 to 2, found 5"):
        model(**{**data, "speakers": torch.full((2, 8), 5)})
    with pytest.raises(PromptError, match=r"text must be \[B, T, 12\]"):
        model(**{**data, "text": data["text"][..., :4]})
    with pytest.raises(ConfigError, match=r"does not know the inputs \['audio'\]"):
        model(**data, audio=data["text"])
    with pytest.raises(ConfigError, match="6 weights of classes, the model has 3"):
        UtteranceClasses(weights=(1.0,) * 6).build(model)(model, {**data, "labels": labels})
    with pytest.raises(ConfigError, match="a label is 3, the model has 3 classes"):
        UtteranceClasses().build(model)(model, {**data, "labels": labels + 1})
    with pytest.raises(ConfigError, match="attention 'dot'; expected one of general, general2, simple"):
        SPEC({**SMALL, "attention": "dot"})
    with pytest.raises(ConfigError, match="features must name one modality at least"):
        SPEC({**SMALL, "features": {}})
    with pytest.raises(ConfigError, match="dialoguernn: "):
        SPEC({**SMALL, "layers": 2})
