"""Mixtral decoders (arXiv 2401.04088): Mistral's blocks, each MLP eight experts of which a token takes two.

    x -> RMSNorm -> attention (grouped heads, rope of theta 1e6) -> RMSNorm -> gate, two of the experts' SwiGLU MLPs

Traps: the weights of the two chosen experts add up to 1; files name an expert's linears w1 (gate), w3 (up) and w2
(down); the loss that balances the experts is added in training only where the config says `output_router_logits`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polymodal.backbones import llama, mistral
from polymodal.backbones.decoder import DecoderConfig, head_row
from polymodal.errors import ConfigError
from polymodal.nn.moe import MoEConfig
from polymodal.weights.keytable import KeyTable

HF_DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "num_experts_per_tok": 2,
    "num_local_experts": 8,
    "router_aux_loss_coef": 0.001,
    "output_router_logits": False,
}
"""What the transformers library takes for absent keys, where it differs from Mistral's."""
_EXPERTS = "model.layers.{}.block_sparse_moe"
_LINEARS = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


def parse_config(config: Mapping[str, Any]) -> DecoderConfig:
    """The decoder a published `config.json` of this family describes, at any size."""
    config = {**HF_DEFAULTS, **config}
    if config.get("router_jitter_noise"):
        raise ConfigError(f"mixtral: router_jitter_noise {config['router_jitter_noise']} is not supported; expected 0")
    dense = mistral.parse_config(config)
    mixture = MoEConfig(
        width=dense.width,
        expert=dense.blocks[0].mlp,
        experts=config["num_local_experts"],
        top_k=config["num_experts_per_tok"],
        balance_weight=config["router_aux_loss_coef"] if config["output_router_logits"] else 0.0,
    )
    return replace(dense, blocks=tuple(replace(block, mlp=mixture) for block in dense.blocks))


def hf_keys(config: DecoderConfig) -> KeyTable:
    """The hub's layout -> a Decoder of `config`; strict both ways."""
    names = {source: target for source, target in llama.HF_NAMES.items() if ".mlp." not in source}
    names[f"{_EXPERTS}.gate.weight"] = "blocks.{}.mlp.gate.weight"
    for theirs, ours in _LINEARS.items():
        names[f"{_EXPERTS}.experts.{{}}.{theirs}.weight"] = f"blocks.{{}}.mlp.experts.{{}}.{ours}.weight"
    return KeyTable.of(names, head_row("lm_head.weight", "model.embed_tokens.weight", tied=config.tied))
