"""BEiT against transformers; all parameters random."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from polymodal.check.randomise import fill, values
from polymodal.encoders import beit_keys
from polymodal.encoders.heads import ClassLogitsConfig, PatchLogitsConfig
from polymodal.errors import ConfigError
from polymodal.models.encoder_classifier import EncoderClassifier
from polymodal.nn.norm import LayerNormConfig
from polymodal.weights.keytable import KeyTable

transformers = pytest.importorskip("transformers")
TOLERANCE = 1e-4  # float32, absolute

SMALL: dict[str, Any] = {
    "hidden_size": 36, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20, "image_size": 21,
    "patch_size": 5, "vocab_size": 30, "layer_norm_eps": 1e-6, "num_labels": 5,
}  # fmt: skip
KINDS: list[dict[str, Any]] = [
    {},
    {"use_relative_position_bias": True},
    {"use_shared_relative_position_bias": True, "use_mask_token": True, "layer_scale_init_value": 0.0},
    {"use_relative_position_bias": True, "use_shared_relative_position_bias": True, "use_mean_pooling": False},
    {"use_absolute_position_embeddings": True, "hidden_act": "relu", "num_channels": 2, "num_hidden_layers": 1},
    {"use_relative_position_bias": True, "image_size": (15, 25)},
]


def check(theirs: Any, head: Any, rows: KeyTable, folder: Path, inputs: dict[str, Any], prefix: str = "beit.") -> None:
    fill(theirs.eval())
    theirs.save_pretrained(folder)
    ours = EncoderClassifier(beit_keys.parse_config(theirs.config.to_dict()).build(), head).eval()
    table = beit_keys.HF_KEYS.prefixed(source=prefix, target="encoders.image.") + rows
    ours.load_state_dict(dict(table.apply(load_file(folder / "model.safetensors"), ours)))
    with torch.no_grad():
        expected = theirs(**inputs, output_hidden_states=True)
        features = ours.features(**inputs)["image"]
        logits = None if head is None else ours(**inputs).logits
    wanted = expected.last_hidden_state if head is None else expected.hidden_states[-1]
    if head is None or theirs.config.use_mean_pooling:
        torch.testing.assert_close(features, wanted, atol=TOLERANCE, rtol=0)
    if logits is not None:
        torch.testing.assert_close(logits, expected.logits, atol=TOLERANCE, rtol=0)
        assert expected.logits.std() > 0.1


@pytest.mark.parametrize("changes", KINDS)
@pytest.mark.parametrize("larger", [False, True])
def test_bare_and_classifier_equal_transformers(tmp_path: Path, changes: dict[str, Any], larger: bool) -> None:
    config = transformers.BeitConfig(**{**SMALL, **changes})
    height, width = (changes.get("image_size") or (21, 21)) if not larger else (31, 20)
    inputs = {"pixel_values": values("p", (2, config.num_channels, height, width))}
    check(transformers.BeitModel(config, add_pooling_layer=False), None, KeyTable(), tmp_path, inputs, "")
    mean = config.use_mean_pooling
    head = ClassLogitsConfig(
        width=36, classes=5, pool="patches" if mean else "class", norm=LayerNormConfig(eps=1e-6) if mean else None
    )
    names = {"classifier.weight": "head.proj.weight", "classifier.bias": "head.proj.bias"}
    if mean:
        names |= {f"beit.pooler.layernorm.{leaf}": f"head.norm.{leaf}" for leaf in ("weight", "bias")}
    check(transformers.BeitForImageClassification(config), head.build(), KeyTable.of(names), tmp_path, inputs)


@pytest.mark.parametrize("changes", KINDS[:3])
def test_masked_image_model_equals_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = transformers.BeitConfig(**{**SMALL, **changes, "use_mask_token": True})
    inputs = {"pixel_values": values("p", (2, 3, 21, 21)), "bool_masked_pos": torch.arange(32).view(2, 16) % 3 == 0}
    head = PatchLogitsConfig(width=36, codes=30, norm=LayerNormConfig(eps=1e-6)).build()
    names = {f"{a}.{leaf}": f"head.{b}.{leaf}" for a, b in (("layernorm", "norm"), ("lm_head", "proj"))
             for leaf in ("weight", "bias")}  # fmt: skip
    check(transformers.BeitForMaskedImageModeling(config), head, KeyTable.of(names), tmp_path, inputs)


def test_absent_keys_take_the_librarys_defaults() -> None:
    assert beit_keys.parse_config({}) == beit_keys.parse_config(transformers.BeitConfig().to_dict())


def test_says_what_is_missing() -> None:
    model = beit_keys.parse_config(SMALL).build()
    with pytest.raises(ConfigError, match="mask token"):
        model(torch.zeros(1, 3, 21, 21), torch.zeros(1, 16))
    with pytest.raises(ConfigError, match=r"\[N, 3, H, W\]"):
        model(torch.zeros(1, 1, 21, 21))
