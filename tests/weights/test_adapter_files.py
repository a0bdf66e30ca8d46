"""Adapter folders: read as PEFT means them, written so that they read the same, refused in one line that names why."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from polymodal.errors import ConfigError, PolymodalError, WeightsError
from polymodal.nn.lora import LowRank
from polymodal.weights.adapter_config import CONFIG, AdapterConfig, as_dict, holds_adapter, parse_config
from polymodal.weights.adapter_files import Adapter, read_adapter, write_adapter

Q = "base_model.model.layers.0.q_proj"


def folder_of(path: Path, tensors: dict[str, torch.Tensor], **said: Any) -> Path:
    path.mkdir(exist_ok=True)
    save_file(tensors, path / "adapter_model.safetensors")
    (path / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], **said}))
    return path


def pair(module: str = Q, rank: int = 2) -> dict[str, torch.Tensor]:
    return {f"{module}.lora_A.weight": torch.randn(rank, 5), f"{module}.lora_B.weight": torch.randn(4, rank)}


def test_a_folder_is_read_as_peft_means_it(tmp_path: Path) -> None:
    tensors = {**pair(), **pair(Q.replace("0", "1"), 3), "base_model.model.head.weight": torch.ones(2, 4)}
    folder = folder_of(tmp_path / "a", tensors, lora_alpha=6, use_rslora=True, modules_to_save=["head"],
                       rank_pattern={"layers.1.*": 3}, alpha_pattern={"1.q_proj": 1.5}, lora_dropout=0.1)  # fmt: skip
    found = read_adapter(folder)
    assert list(found.changes) == ["layers.0.q_proj", "layers.1.q_proj"] and list(found.tensors) == ["head.weight"]
    assert found.changes["layers.0.q_proj"].scale == 6 / 2**0.5
    assert found.changes["layers.1.q_proj"].scale == 1.5 / 3**0.5
    assert found.changes["layers.1.q_proj"].dropout == 0.1


def test_torch_files_are_read_too(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", pair())
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    assert list(read_adapter(folder).changes) == ["layers.0.q_proj"]


def test_what_a_folder_is(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "a", pair())
    assert holds_adapter(folder) and not holds_adapter(tmp_path)
    (folder / "model.safetensors").touch()
    assert not holds_adapter(folder)


@pytest.mark.parametrize(
    ("said", "match"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
        ({"use_qalora": True}, "use_qalora"),
        ({"target_parameters": ["experts.down"]}, "target_parameters"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"ensure_weight_tying": True}, "ensure_weight_tying"),
        ({"something_of_next_year": {"a": 1}}, "something_of_next_year"),
        ({"init_lora_weights": "pissa_niter_4"}, "pissa_niter_4.*changes the base"),
        ({"bias": "some"}, "bias 'some'"),
        ({"r": 0}, "at least 1"),
        ({"r": "many"}, "another kind"),
        ({"rank_pattern": ["a"]}, "another kind"),
        ({"target_modules": "(q_proj"}, "no regular expression"),
        ({"alpha_pattern": {"q": "nan"}}, "finite"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path: Path, said: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match) as error:
        read_adapter(folder_of(tmp_path / "a", pair(), **said))
    assert "\n" not in str(error.value)


def test_numbers_that_are_none_are_damage(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="NaN is not a number"):
        read_adapter(folder_of(tmp_path / "a", pair(), lora_alpha=float("nan")))


def test_what_does_not_change_the_result_is_no_obstacle(tmp_path: Path) -> None:
    said = {"auto_mapping": {"a": 1}, "inference_mode": True, "layers_to_transform": [0], "exclude_modules": ["k"],
            "init_lora_weights": "gaussian", "runtime_config": {"x": 1}, "megatron_core": "megatron.core",
            "new_and_off": False, "corda_config": None}  # fmt: skip
    assert read_adapter(folder_of(tmp_path / "a", pair(), **said)).changes


@pytest.mark.parametrize(
    ("tensors", "said", "match"),
    [
        ({}, {}, "no tensor"),
        ({"layers.0.q_proj.lora_A.weight": torch.ones(2, 5)}, {}, "not named by PEFT"),
        ({f"{Q}.lora_A.weight": torch.ones(2, 5)}, {}, "expected lora_A and lora_B, found lora_A"),
        ({f"{Q}.lora_A.weight": torch.ones(3, 5), f"{Q}.lora_B.weight": torch.ones(4, 3)}, {}, "says rank 2"),
        ({f"{Q}.lora_A.weight": torch.ones(2, 5, 1, 1), f"{Q}.lora_B.weight": torch.ones(4, 2, 1, 1)}, {}, "convol"),
        ({f"{Q}.lora_A.weight": torch.ones(2, 5).int(), f"{Q}.lora_B.weight": torch.ones(4, 2)}, {}, "floating"),
        (pair(), {"target_modules": ["k_proj"]}, "target_modules does not name it"),
        (pair(), {"use_dora": True}, "use_dora is True"),
        ({**pair(), "base_model.model.head.bias": torch.ones(1), "base_model.model.head.modules_to_save.bias":
          torch.zeros(1)}, {"bias": "all"}, "stored twice"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_belong_together_are_named(tmp_path: Path, tensors: Any, said: Any, match: str) -> None:
    with pytest.raises(WeightsError, match=match) as error:
        read_adapter(folder_of(tmp_path / "a", tensors, **said))
    assert "\n" not in str(error.value)


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no adapter_config"):
        read_adapter(tmp_path)
    folder = folder_of(tmp_path / "a", pair())
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"no weights; looked for adapter_model\.safetensors"):
        read_adapter(folder)
    for text, match in (("{", "damaged"), ("[]", "expected a table")):
        (folder / CONFIG).write_text(text)
        with pytest.raises(WeightsError, match=match):
            read_adapter(folder)


@settings(deadline=None, max_examples=30)
@given(
    ranks=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    scales=st.lists(st.floats(0.1, 8), min_size=4, max_size=4),
    dora=st.booleans(),
)
def test_what_is_written_is_read_the_same(
    tmp_path_factory: pytest.TempPathFactory, ranks: list[int], scales: list[float], dora: bool
) -> None:
    changes = {
        f"m.{i}.{'embed' if i == 2 else 'q_proj'}": LowRank(
            a=torch.randn(rank, 5), b=torch.randn(4, rank), scale=scales[i], magnitude=torch.rand(4) if dora else None
        )
        for i, rank in enumerate(ranks)
    }
    config = AdapterConfig(targets=(), dora=dora, whole=("head",), bias="lora_only", base="owner/base")
    tensors = {"head.weight": torch.randn(2, 2), "m.0.q_proj.bias": torch.randn(4)}
    embeddings = frozenset(module for module in changes if module.endswith("embed"))
    folder = tmp_path_factory.mktemp("adapters") / "new"
    adapter = Adapter(folder=folder, config=config, changes=changes, embeddings=embeddings, tensors=tensors)
    again = read_adapter(write_adapter(folder, adapter, {"task_type": "CAUSAL_LM"}))
    assert again.embeddings == embeddings and again.config.task == "CAUSAL_LM" and again.config.base == "owner/base"
    assert again.changes.keys() == changes.keys() and again.tensors.keys() == tensors.keys()
    for module, change in changes.items():
        found = again.changes[module]
        assert torch.equal(found.a, change.a) and torch.equal(found.b, change.b)
        assert found.scale == pytest.approx(change.scale, rel=1e-12)
        assert dora == (found.magnitude is not None)
    for name, tensor in tensors.items():
        assert torch.equal(again.tensors[name], tensor)


def test_a_config_is_written_as_it_was_read() -> None:
    said = {"peft_type": "LORA", "r": 4, "lora_alpha": 7, "lora_dropout": 0.1, "use_rslora": True, "use_dora": False,
            "bias": "none", "target_modules": r".*\.q_proj", "modules_to_save": ["head"], "rank_pattern": {"a": 2},
            "alpha_pattern": {"b": 2.5}, "base_model_name_or_path": "owner/base", "revision": "main",
            "task_type": "CAUSAL_LM", "inference_mode": True, "init_lora_weights": True,
            "fan_in_fan_out": False}  # fmt: skip
    assert as_dict(parse_config(said)) == said


def test_only_adapters_are_written_over(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    adapter = Adapter(folder=tmp_path, config=AdapterConfig(), changes={})
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(PolymodalError, match="exists and is no adapter"):
            write_adapter(folder, adapter)
