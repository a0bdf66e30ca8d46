"""StableLM and Phi against `transformers`: tiny random models, ALL parameters random, float32, error <= 1e-4."""

from typing import Any

import pytest
from decoder_parity import assert_equals_library

transformers = pytest.importorskip("transformers")

from polymodal.backbones import phi, stablelm  # noqa: E402
from polymodal.errors import ConfigError  # noqa: E402

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


@pytest.mark.parametrize("name", list(CASES))
def test_equals_transformers(name: str) -> None:
    assert_equals_library(*CASES[name])


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
