"""HTS-AT against ClapAudioModelWithProjection of transformers; shapes that are refused."""

from __future__ import annotations

import pytest
import torch

from polymodal.check import randomise
from polymodal.check.library import quiet
from polymodal.encoders.htsat import parse_config
from polymodal.errors import ConfigError
from polymodal.weights.keytable import KeyTable, drop, pair, rename

CONFIG = {"embed_dim": 16, "depths": [2, 1, 2, 1], "num_heads": [2, 2, 4, 4], "window_size": 4, "joint_embed_shape": 20}
BODY = "audio_model.audio_encoder"


def library_keys() -> KeyTable:
    """The names of transformers."""
    block, ours = f"{BODY}.layers.{{}}.blocks.{{}}", "levels.{}.blocks.{}"
    rows = [
        rename(f"{BODY}.batch_norm.{leaf}", f"mel_norm.{leaf}")
        for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    ]
    rows += [rename(f"{block}.attention.self.relative_position_bias_table", f"{ours}.attn.bias"),
             drop(f"{block}.attention.self.relative_position_index")]  # fmt: skip
    names = {"layernorm_before": "attn_norm", "layernorm_after": "mlp_norm", "attention.self.query": "attn.q_proj",
             "attention.self.key": "attn.k_proj", "attention.self.value": "attn.v_proj",
             "attention.output.dense": "attn.o_proj", "intermediate.dense": "mlp.up_proj",
             "output.dense": "mlp.down_proj"}  # fmt: skip
    for theirs, name in names.items():
        rows += pair(f"{block}.{theirs}", f"{ours}.{name}")
    merge = f"{BODY}.layers.{{}}.downsample"
    rows += [*pair(f"{merge}.norm", "levels.{}.merge_norm"), *pair(f"{BODY}.norm", "final_norm"),
             rename(f"{merge}.reduction.weight", "levels.{}.merge.weight"),
             *pair(f"{BODY}.patch_embed.proj", "patch_embed"), *pair(f"{BODY}.patch_embed.norm", "patch_norm"),
             *pair("audio_projection.linear1", "proj_in"), *pair("audio_projection.linear2", "proj_out")]  # fmt: skip
    return KeyTable(tuple(rows))


def test_vectors_are_those_of_the_library() -> None:
    with quiet() as transformers:
        oracle = transformers.ClapAudioModelWithProjection(transformers.ClapAudioConfig(
            patch_embeds_hidden_size=16, depths=CONFIG["depths"], num_attention_heads=CONFIG["num_heads"],
            window_size=4, projection_dim=20, hidden_size=128, enable_fusion=False)).eval()  # fmt: skip
    randomise.fill(oracle)
    model = parse_config(CONFIG).build().eval()
    model.load_state_dict(dict(library_keys().apply(oracle.state_dict(), model)))
    for frames in (1001, 70):
        mel = randomise.values(f"mel {frames}", (2, 1, frames, 64))
        with torch.no_grad():
            wanted = oracle(input_features=mel, is_longer=torch.zeros(2, 1, dtype=torch.bool)).audio_embeds
            found = torch.nn.functional.normalize(model.joint(mel), dim=-1)
            wanted = torch.nn.functional.normalize(wanted, dim=-1)
        assert float((found - wanted).abs().max()) < 1e-4


@pytest.mark.parametrize("shape", [(1, 1, 1025, 64), (1, 1, 10, 65), (1, 10, 64), (1, 1, 0, 64)])
def test_other_shapes_are_refused(shape) -> None:
    with pytest.raises(ConfigError, match="input_features must be"):
        parse_config(CONFIG).build()(torch.zeros(shape))
