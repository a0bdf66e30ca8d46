"""What tells a config.json's system without importing the others is what the records say, and every build is sound."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from polymodal import systems
from polymodal.systems import ConfigMatch, _lookup, hf
from polymodal.weights.build import build_empty

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import lists


@pytest.mark.parametrize(("path", "text"), lists.pages().items(), ids=lambda each: getattr(each, "name", ""))
def test_what_is_written_from_the_records_is_what_they_say(path, text):
    assert path.read_text(encoding="utf-8") == text, "outdated; run: python scripts/lists.py"


def test_every_published_system_is_of_one_kind():
    for system in lists.published():
        assert [kind.title for kind in lists.KINDS if kind.holds(system)], system.id
        assert sum(kind.holds(system) for kind in lists.KINDS) == 1, system.id


@pytest.mark.parametrize("stem", systems.stems())
def test_a_system_is_a_candidate_for_its_own_configs(stem, monkeypatch):
    system = systems.get(stem)
    monkeypatch.setattr(_lookup, "_read", lambda name: name)
    for variant in system.variants:
        if variant.config is not None and "model_type" in variant.config | {"model_type": None}:
            matching = [format for format in system.formats if format.matches(variant.config)]
            assert not matching or stem in systems.candidates(variant.config)


def test_candidates():
    assert [each.id for each in systems.candidates({"model_type": "llava"})] == ["llava-1.5"]
    official = {"model_type": "anything", "architectures": ["LlavaLlamaForCausalLM"]}
    found = {each.id for each in systems.candidates(official)}
    assert found == {"chinese-llava", "llava", "llava-1.5", "llava-1.6", "video-chatgpt"}
    assert [each.id for each in systems.candidates({"imu_embed_dim": 512})] == ["imagebind"]
    shapes = systems.candidates({})
    assert shapes and all(any(format.infer for format in each.formats) for each in shapes)
    for odd in ({"model_type": "new"}, {"model_type": ["llava"]}, {"architectures": 3}, {"architectures": [None]}):
        assert systems.candidates(odd) == []


def test_matches():
    named = hf("llava", "LlavaForConditionalGeneration")
    assert named({"model_type": "llava"}) == 1 and named({"model_type": "clip"}) == 0
    assert named({"model_type": "llava", "architectures": ["LlavaForConditionalGeneration"]}) == 1
    assert named({"model_type": "llava", "architectures": ["Other"]}) == 0
    assert hf("x", "A")({"architectures": ["A"]}) == 0
    keyed = ConfigMatch(keys=("width",), score=lambda config: config["width"])
    assert keyed({"width": 3}) == 3 and keyed({}) == 0


def held(module: nn.Module) -> list[tuple[str, Tensor]]:
    """Tensors that a module keeps beside its parameters and buffers."""
    found = []
    for name, part in module.named_modules():
        for key, value in vars(part).items():
            if key in ("_parameters", "_buffers", "_modules"):
                continue
            listed = (
                value if isinstance(value, list | tuple) else value.values() if isinstance(value, dict) else [value]
            )
            found += [(f"{name}.{key}", each) for each in listed if isinstance(each, Tensor)]
    return found


@pytest.mark.parametrize("stem", systems.stems())
def test_what_a_build_on_the_meta_device_computes_is_real(stem):
    """A table that no file holds would have no values after loading: see nn/computed.py."""
    system = systems.get(stem)
    for variant in system.variants:
        module = build_empty(lambda variant=variant: system.module(variant))
        stored = module.state_dict(keep_vars=True)
        empty = [name for name, x in module.named_buffers() if x.is_meta and name not in stored]
        empty += [name for name, x in held(module) if x.is_meta]
        assert not empty, f"{variant.name}: {empty[:3]}"
        assert all(x.is_meta for x in module.parameters()) and torch.empty(0).device.type == "cpu"
