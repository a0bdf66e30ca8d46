"""Qwen2-VL's encoder and merger against transformers; all parameters random."""

from typing import Any

import pytest
import torch

from polymodal.check.randomise import fill, values
from polymodal.connectors.patch_merger import HF_KEYS, PatchMergerConfig
from polymodal.encoders.qwen2_vit import Qwen2ViTConfig, hf_keys, parse_config
from polymodal.errors import ConfigError, PromptError
from polymodal.weights.keytable import KeyTable

GRIDS = torch.tensor([[1, 4, 6], [3, 2, 4], [1, 4, 6], [2, 6, 4]])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"depth": 1, "patch_size": 5, "num_heads": 1, "embed_dim": 20, "hidden_act": "gelu_pytorch_tanh"},
        {"mlp_ratio": 3, "temporal_patch_size": 1, "in_channels": 1, "spatial_merge_size": 1},
        {"rope_parameters": {"rope_type": "axial", "rope_theta": 500.0}},
    ],
)
def test_equals_transformers(options: dict[str, Any]) -> None:
    transformers = pytest.importorskip("transformers")
    from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

    sizes = {"depth": 2, "embed_dim": 32, "num_heads": 2, "hidden_size": 24, "patch_size": 4, **options}
    given = transformers.models.qwen2_vl.configuration_qwen2_vl.Qwen2VLVisionConfig(**sizes)
    theirs = Qwen2VisionTransformerPretrainedModel(given).eval()
    fill(theirs)
    config = parse_config(given.to_dict())
    model = torch.nn.ModuleDict(
        {"encoder": config.build(), "connector": PatchMergerConfig(merge=config.merge).build(config.width, 24)}
    ).eval()
    table = hf_keys(config).prefixed(target="encoder.") + HF_KEYS.prefixed("merger.", "connector.")
    model.load_state_dict(dict(table.apply(theirs.state_dict(), model)))
    patches = values("patches", (int(GRIDS.prod(-1).sum()), config.patch_values))
    with torch.no_grad():
        expected = theirs(patches, GRIDS)
        features = model["encoder"](patches, GRIDS)
        tokens = model["connector"](features)
    torch.testing.assert_close(torch.cat(features), expected.last_hidden_state, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat(tokens), expected.pooler_output, atol=1e-5, rtol=0)
    assert [len(item) for item in tokens] == [int(grid.prod()) // config.merge**2 for grid in GRIDS]
    assert KeyTable.inverse(table).check(model.state_dict(), theirs.state_dict()).problems == ()


def test_items_do_not_see_each_other() -> None:
    model = Qwen2ViTConfig(width=16, depth=2, heads=2, ffn_width=20, patch_size=2).build().eval()
    fill(model)
    patches = values("patches", (int(GRIDS.prod(-1).sum()), model.config.patch_values))
    alone = model(patches[24:48], GRIDS[1:2])[0]
    torch.testing.assert_close(model(patches, GRIDS)[1], alone, atol=1e-5, rtol=0)


def test_mistakes_are_named() -> None:
    model = Qwen2ViTConfig(width=16, depth=1, heads=2, ffn_width=20, patch_size=2).build()
    with pytest.raises(PromptError, match="need 24 patches, found 23"):
        model(torch.zeros(23, 24), torch.tensor([[1, 4, 6]]))
    with pytest.raises(PromptError, match="multiples of 2, found 3 x 5"):
        model(torch.zeros(15, 24), torch.tensor([[1, 3, 5]]))
    with pytest.raises(ConfigError, match="patch_size"):
        parse_config({"patch_size": [14, 14]})
