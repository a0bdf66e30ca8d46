"""Small folders that describe huge models: refused at once, before memory or time is taken; limits can be raised."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import polymodal as pm
from polymodal import systems
from polymodal.api import published
from polymodal.check.demo import write_config
from polymodal.checkpoints.field_kinds import wrong_field
from polymodal.checkpoints.preprocessor_fields import check_preprocessor
from polymodal.errors import ConfigError, WeightsError
from polymodal.nn.computed import computed_buffer
from polymodal.weights.build import build_empty
from polymodal.weights.config_limits import VARIABLE, check_numbers, config_limits

CONFIGS = {
    f"{system.id}:{variant.name}": variant.config
    for system in systems.every()
    for variant in system.variants
    if variant.config is not None
}
PUBLISHED = json.loads((Path(__file__).parents[1] / "fixtures" / "published.json").read_text("utf-8"))
LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
         "num_attention_heads": 4, "num_hidden_layers": 2, "vocab_size": 300}  # fmt: skip
VIT = {"model_type": "vit", "architectures": ["ViTForImageClassification"], "hidden_size": 48, "num_hidden_layers": 2,
       "num_attention_heads": 4, "intermediate_size": 96, "image_size": 32, "patch_size": 8}  # fmt: skip
HUGE: list[tuple[dict[str, Any], str]] = [
    ({**LLAMA, "num_hidden_layers": 10**5}, r"num_hidden_layers is 100,000, the limit for layers is 1,000"),
    ({**LLAMA, "num_hidden_layers": 10**9}, "num_hidden_layers"),
    ({**LLAMA, "num_hidden_layers": 1e300}, "num_hidden_layers"),
    ({**LLAMA, "vocab_size": 10**9}, "vocab_size is 1,000,000,000, the limit for a number of a config is 134,217,728"),
    ({**LLAMA, "hidden_size": 10**12}, "hidden_size"),
    ({**LLAMA, "hidden_size": 10**8, "intermediate_size": 10**8}, "more than 10,000,000,000,000 parameters"),
    ({**LLAMA, "num_attention_heads": 10**6}, "num_attention_heads is 1,000,000, the limit for sides, heads"),
    ({**LLAMA, "max_position_embeddings": 10**12}, "max_position_embeddings"),
    (
        {"model_type": "blip-2", "num_query_tokens": 10**9, "text_config": {"model_type": "opt"}},
        "num_query_tokens is 1,",
    ),
    ({**VIT, "num_labels": 10**9}, "num_labels"),
    ({**VIT, "image_size": 10**9}, "image_size"),
    ({**VIT, "image_size": [10**9, 4]}, "image_size"),
    ({**VIT, "patch_size": 10**9}, "patch_size"),
]


@pytest.mark.parametrize(("config", "words"), HUGE, ids=lambda each: str(each)[-40:])
def test_a_config_beyond_every_model_is_refused_at_once(config, words, tmp_path):
    write_config(tmp_path, config=config)
    begin = time.process_time()
    found = published.recognise(tmp_path)
    with pytest.raises(ConfigError, match=words):
        build_empty(lambda: found.system.module(published.variant_of(tmp_path, found)))
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises((ConfigError, WeightsError)):
        pm.load(tmp_path)
    assert time.process_time() - begin < 5


def test_a_limit_is_raised_for_ones_own_models(monkeypatch):
    deep = {"num_hidden_layers": config_limits().layers + 1}
    with pytest.raises(ConfigError, match=f"set {VARIABLE}=layers=1001$"):
        check_numbers(deep, "config.json")
    monkeypatch.setenv(VARIABLE, "layers=1001")
    check_numbers(deep, "config.json")


def test_layers_of_several_stacks_count_together():
    with pytest.raises(ConfigError, match=r"vision_layers is 1,200"):
        check_numbers({"vision_layers": [600, 600]}, "config.json")


def test_labels_may_have_any_name():
    check_numbers({"label2id": {"brick layer": 20_000, "window": 70_000}}, "config.json")
    assert wrong_field({"label2id": {"size": "x"}}) is None
    with pytest.raises(ConfigError, match=r"label2id\.window"):
        check_numbers({"label2id": {"window": 10**12}}, "config.json")


def test_a_build_is_bounded_while_it_goes_on(monkeypatch):
    class Endless(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = nn.ModuleList(nn.LayerNorm(1) for _ in range(10**12))

    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            computed_buffer(self, "table", lambda: torch.arange(10**5)[:, None] * torch.arange(10**5))

    class Mask(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            computed_buffer(self, "mask", lambda: torch.full((4096, 4096), float("-inf")).triu(1))

    with monkeypatch.context() as lower:
        lower.setenv(VARIABLE, "tensors=800")
        with pytest.raises(ConfigError, match=r"a model of more than 800 tensors, the limit; .*=tensors=8000$"):
            build_empty(Endless)
    with pytest.raises(ConfigError, match=r"a table of 10,000,000,000 values computed, the limit is 268,435,456"):
        build_empty(Table)
    with pytest.raises(ConfigError, match="a model of more than"):
        build_empty(lambda: nn.Linear(10**7, 10**7))
    assert not build_empty(Mask).mask.is_meta


def test_no_published_config_is_beyond_a_limit_or_of_a_wrong_kind():
    named = CONFIGS | {name: each["config"] for name, each in PUBLISHED.items() if each.get("config")}
    assert len(named) > 100
    for name, config in named.items():
        check_numbers(config, name)
        assert wrong_field(config) is None, name


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"size": 32000}, r"size asks for pictures of 1,024,000,000 pixels, the limit is 33,554,432"),
        ({"size": {"height": 10**9, "width": 4}}, r"size.height: expected a whole number from 1 to 65,536, found int"),
        ({"size": {"shortest_edge": 0}}, "size.shortest_edge"),
        ({"crop_size": "64"}, "crop_size: expected a whole number from 1 to 65,536, found str '64'"),
        ({"image_mean": [0.5, "a", 0.5]}, r"image_mean\[1\]: expected a number, found str 'a'"),
        ({"image_std": [0, 1, 1]}, "expected a number other than 0"),
        ({"max_pixels": 2**40}, "max_pixels"),
        ({"patch_size": {"height": 1e9}}, "patch_size.height"),
    ],
    ids=lambda each: str(each)[:30],
)
def test_a_preprocessor_is_checked_when_it_is_read(settings, words):
    with pytest.raises(ConfigError, match=words):
        check_preprocessor(settings, Path("preprocessor_config.json"))


def test_published_preprocessors_are_read():
    for settings in ({"size": {"shortest_edge": 3136, "longest_edge": 12845056}, "patch_size": 14, "resample": 3},
                     {"size": {"height": 1080, "width": 1920}, "image_mean": 0.5, "image_std": 0.5},
                     {"size": 384, "crop_size": [224, 224], "rescale_factor": 1 / 255, "size_divisor": 32},
                     {"max_pixels": 1280 * 28 * 28, "crop_size": None}):  # fmt: skip
        check_preprocessor(settings, Path("preprocessor_config.json"))


def test_tables_stand_for_sides_alone():
    heads = {"num_attention_heads": {"num_attention_heads": 4}}
    assert wrong_field({"vision_config": heads}) is not None
    assert wrong_field({"num_hidden_layers": {}}) is not None
    assert wrong_field({"image_size": {"height": 8, "width": 9}, "patch_size": [2, 2]}) is None
