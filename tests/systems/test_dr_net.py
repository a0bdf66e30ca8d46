"""D&R Net: its losses, padding, and bad input refused by name."""

import pytest
import torch

from polymodal.check.evidence.dr_net import SMALL, samples
from polymodal.errors import ConfigError, PromptError
from polymodal.systems import get

SPEC = get("dr-net").formats[0].model_spec


def test_losses_are_cross_entropy_and_how_far_from_orthogonal():
    data = samples(0, 6)
    model = SPEC(SMALL).build().eval()
    found = model(**data)
    parts = found.features
    wanted = sum(
        (parts[f"shared_{name}"][:, :, None] * parts[f"private_{name}"][:, None]).mean(0).square().sum()
        for name in ("text", "vision")
    )
    assert torch.isclose(found.losses["orthogonal"], 0.1 * wanted, rtol=1e-4)
    plain = torch.nn.functional.cross_entropy(found.logits, data["labels"])
    assert torch.isclose(found.losses["classification"], plain) and found.loss > plain


def test_padding_changes_nothing():
    data = samples(0, 6)
    model = SPEC(SMALL).build().eval()
    longer = {**data, "text": torch.nn.functional.pad(data["text"], (0, 0, 0, 3), value=9.0)}
    assert torch.allclose(model(**data).logits, model(**longer).logits, atol=1e-6)


def test_refusals():
    data = samples(0, 6)
    model = SPEC(SMALL).build()
    with pytest.raises(PromptError, match="expected text, vision, pairs, found no pairs"):
        model(**{**data, "pairs": None})
    with pytest.raises(PromptError, match=r"vision must be \[B, T, 12\] or \[B, 12\], found \[6, 5\]"):
        model(**{**data, "vision": torch.zeros(6, 5)})
    with pytest.raises(PromptError, match=r"text_lengths must be \[6\], found \[2\]"):
        model(**{**data, "text_lengths": torch.tensor([1, 2])})
    with pytest.raises(ConfigError, match="D&R Net: features must have the keys text, vision, pairs"):
        SPEC({**SMALL, "features": {"text": 3}})
    with pytest.raises(ConfigError, match="dr-net: "):
        SPEC({**SMALL, "relations": 2})
