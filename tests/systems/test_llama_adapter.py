"""LLaMA-Adapter: its prompt, the adapter's file beside LLaMA's, files that are its successor's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import polymodal as pm
from polymodal.check.demo import write_config
from polymodal.check.fixture import official_weights, read
from polymodal.data.messages import conversation
from polymodal.data.template import written
from polymodal.errors import ConfigError, PromptError
from polymodal.systems import get
from polymodal.systems.llama_adapter.checkpoint import PUBLISHED, TEMPLATE, infer, one_instruction


def test_prompt_is_that_of_the_official_training() -> None:
    talk: list[dict[str, Any]] = [{"role": "user", "content": "Name a cat."}, {"role": "assistant", "content": "Tom."}]
    assert written(TEMPLATE.render(one_instruction(conversation(talk)), ask=False)) == (
        "<s>Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\nName a cat.\n\n### Response:Tom.</s>"
    )
    with pytest.raises(PromptError, match="takes one instruction"):
        one_instruction(conversation([*talk, *talk]))


def test_the_adapter_lies_beside_llama(tmp_path: Path) -> None:
    about, stored = read("llama_adapter")
    weights = official_weights(about)
    adapter = {name for name in weights if name.endswith(".gate") or name == "adapter_query.weight"}
    torch.save({name: x for name, x in weights.items() if name in adapter}, tmp_path / "adapter.pth")
    torch.save({name: x for name, x in weights.items() if name not in adapter}, tmp_path / "consolidated.00.pth")
    write_config(tmp_path, config=json.loads(about["config"]))
    real = stored["in.attention_mask"].bool()
    found = pm.load(tmp_path).logits(**{name[3:]: x for name, x in stored.items() if name.startswith("in.")})
    torch.testing.assert_close(found[real], stored["out.logits"][real], atol=1e-4, rtol=0)


def test_files_are_told_from_those_of_the_second_version() -> None:
    own = {"adapter_query.weight": (300, 4096), "tok_embeddings.weight": (32000, 4096)}
    assert infer(own) == PUBLISHED
    assert infer({**own, "visual_query.weight": (10, 768)}) is None
    second = json.loads(read("llama_adapter_v2")[0]["published_shapes"])
    assert infer(second) is None and get("llama-adapter-v2").formats[0].infer(own) is None  # type: ignore[misc]


def test_more_layers_than_there_are_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"adapter_layer 33 must be in 1\.\.32"):
        get("llama-adapter").formats[0].model_spec({**PUBLISHED, "adapter_layer": 33})
