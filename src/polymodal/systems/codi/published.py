"""The published sizes of CoDi in the words of its configs/model/*.yaml, and the config of files without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from polymodal.systems.codi.checkpoint import OUTPUTS

Shapes = Mapping[str, Sequence[int]]

LEVELS: dict[str, Any] = {
    "num_noattn_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "with_attn": [True, True, True, False],
    "channel_mult_connector": [1, 2, 4], "num_noattn_blocks_connector": [1, 1, 1],
    "with_connector": [True, True, True, False], "connector_output_channel": 1280, "num_heads": 8, "context_dim": 768,
}  # fmt: skip
UNETS: dict[str, Any] = {
    "unet_image": {"input_channels": 4, "model_channels": 320, "output_channels": 4, "use_video_architecture": True,
                   **LEVELS},
    "unet_text": {"input_channels": 768, "model_channels": 320, "output_channels": 768, "second_dim": [4, 4, 4, 4],
                  "second_dim_connector": [4, 4, 4], **LEVELS},
    "unet_audio": {"input_channels": 8, "model_channels": 192, "output_channels": 8, **LEVELS},
}  # fmt: skip
CODEC = {"ch": 128, "num_res_blocks": 2, "attn_resolutions": [], "double_z": True}
ENCODERS: dict[str, Any] = {
    "clip": {
        "projection_dim": 768,
        "text_config": {"vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
                        "num_attention_heads": 12, "max_position_embeddings": 77},
        "vision_config": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
                          "num_attention_heads": 16, "image_size": 224, "patch_size": 14},
    },
    "clap": {"embed_dim": 256, "depths": [2, 2, 12, 2], "num_heads": [4, 8, 16, 32], "window_size": 8,
             "joint_embed_shape": 768},
    "autokl": {**CODEC, "z_channels": 4, "in_channels": 3, "out_ch": 3, "ch_mult": [1, 2, 4, 4]},
    "audioldm": {**CODEC, "z_channels": 8, "in_channels": 1, "out_ch": 1, "ch_mult": [1, 2, 4]},
    "optimus": {
        "latent_size": 768,
        "encoder": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12,
                    "vocab_size": 28996, "max_position_embeddings": 512, "layer_norm_eps": 1e-12},
        "decoder": {"n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024, "vocab_size": 50260,
                    "layer_norm_epsilon": 1e-5},
    },
}  # fmt: skip
CONFIG: dict[str, Any] = {"model_type": "codi", **ENCODERS, **UNETS}


def infer(shapes: Shapes) -> Mapping[str, Any] | None:
    """The published config with the U-Nets whose tensors are there; None for files of something else.

    Files of other sizes are told from these by their shapes when they are read, and need a config.json.
    """
    if "clap.model.audio_branch.bn0.weight" not in shapes or "optimus.encoder.linear.weight" not in shapes:
        return None
    present = {key: UNETS[key] for key in OUTPUTS.values()
               if f"model.diffusion_model.{key}.time_embed.0.weight" in shapes}  # fmt: skip
    return {"model_type": "codi", **ENCODERS, **present}
