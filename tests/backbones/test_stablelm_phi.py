"""StableLM and Phi against `transformers`: tiny random models, ALL parameters random, float32, error <= 1e-4."""

from typing import Any

import pytest
import torch
from decoder_parity import TOLERANCE, build_like, logits, stepwise, tiny

transformers = pytest.importorskip("transformers")

from polymodal.backbones import phi, stablelm  # noqa: E402
from polymodal.check.randomise import fill  # noqa: E402
from polymodal.errors import ConfigError  # noqa: E402

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12], [0, 0, 0, 3, 4, 5, 6, 7]])
MASK = torch.tensor([[1] * 8, [0] * 3 + [1] * 5])
BASE: dict[str, Any] = {"hidden_size": 48, "num_attention_heads": 6, "num_hidden_layers": 2, "intermediate_size": 72,
                        "vocab_size": 61, "max_position_embeddings": 64}  # fmt: skip
STABLELM = {**BASE, "num_key_value_heads": 6}
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e3, "partial_rotary_factor": 0.5}
CASES: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "stablelm": (stablelm, "StableLm", STABLELM),
    "stablelm_grouped_biased_tied": (
        stablelm,
        "StableLm",
        {**STABLELM, "num_key_value_heads": 2, "use_qkv_bias": True, "tie_word_embeddings": True,
         "layer_norm_eps": 0.1},
    ),
    "stablelm_rope": (stablelm, "StableLm", {**STABLELM, "rope_parameters": LINEAR, "hidden_act": "gelu"}),
    "phi": (phi, "Phi", BASE),
    "phi_grouped": (phi, "Phi", {**BASE, "num_key_value_heads": 2, "layer_norm_eps": 0.1, "hidden_act": "relu"}),
    "phi_rope": (phi, "Phi", {**BASE, "rope_parameters": LINEAR}),
}  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("name", list(CASES))
def test_equals_transformers(name: str) -> None:
    family, prefix, options = CASES[name]
    theirs = tiny(getattr(transformers, f"{prefix}ForCausalLM"), getattr(transformers, f"{prefix}Config")(**options))
    fill(theirs)
    config = family.parse_config(theirs.config.to_dict())
    assert family.parse_config(options) == config  # absent keys take the library's defaults
    ours = build_like(config, family.hf_keys(config), dict(theirs.state_dict()))
    expected = theirs(input_ids=IDS, attention_mask=MASK).logits
    real = MASK.bool()
    torch.testing.assert_close(logits(ours, IDS, MASK)[real], expected[real], atol=TOLERANCE, rtol=0)
    steps = stepwise(ours, IDS, [5, 1, 1, 1], MASK)
    torch.testing.assert_close(steps[real], expected[real], atol=TOLERANCE, rtol=0)


def test_defaults_are_the_library_s() -> None:
    for family, prefix in ((stablelm, "StableLm"), (phi, "Phi")):
        assert family.parse_config({}) == family.parse_config(getattr(transformers, f"{prefix}Config")().to_dict())


def test_the_first_releases_of_stablelm_use_other_words() -> None:
    old = stablelm.parse_config({**STABLELM, "rope_pct": 0.5, "norm_eps": 1e-3})
    assert old == stablelm.parse_config({**STABLELM, "partial_rotary_factor": 0.5, "layer_norm_eps": 1e-3})


@pytest.mark.parametrize(
    ("family", "option"),
    [(stablelm, "use_parallel_residual"), (stablelm, "qk_layernorm"), (phi, "qk_layernorm"),
     (phi, "tie_word_embeddings")],
)  # fmt: skip
def test_what_is_not_supported_is_named(family: Any, option: str) -> None:
    with pytest.raises(ConfigError, match=f"{option} is not supported; expected false"):
        family.parse_config({**BASE, option: True})
