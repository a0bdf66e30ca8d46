"""VL-BEiT from its paper: configs and names of our own, since neither code nor weights were published.

    embed_tokens, patches, class token, positions -> blocks: one attention for all, a feed-forward expert for pictures
    and one for words, in the last blocks one more for pairs -> norm -> words; answers, classes of pairs, joint space
Traps: attention is shared, the norm in front of an expert is the expert's, keys have no bias; the expert of pairs reads
both kinds of tokens, and only where a text has a picture.  What is not known is a field of the config.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.backbones.encoder import weight_and_bias
from polymodal.checkpoints.multiway import assemble_multiway, drawing
from polymodal.encoders.beit3 import BEiT3Config
from polymodal.errors import ConfigError
from polymodal.fusion.routing import RoutedMLPConfig, RoutedNormConfig
from polymodal.models.multiway import MultiwayConfig, MultiwayRetrievalConfig
from polymodal.nn.attention import AttentionConfig, AttentionLinears
from polymodal.nn.block import PreNormBlockConfig
from polymodal.nn.linear import LinearConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig
from polymodal.systems import ModelSpec
from polymodal.weights.keytable import KeyTable, Row, rename

WORDS, ANSWERS, PAIRS, RETRIEVAL = "words", "answers", "pairs", "retrieval"
KINDS = (WORDS, ANSWERS, PAIRS, RETRIEVAL)
EXPERTS = ("vision", "language", "pair")
EPS = 1e-6


def tower_of(config: Mapping[str, Any]) -> BEiT3Config:
    """The stack.  pair_layers: how many of the last blocks have an expert for pairs."""
    width, depth, pairs = config["hidden_size"], config["num_hidden_layers"], config["pair_layers"]
    if not 0 <= pairs <= depth:
        raise ConfigError(f"vl-beit: pair_layers must be 0 to {depth}, found {pairs}")
    norm = LayerNormConfig(eps=config.get("layer_norm_eps", EPS))
    mlp = MLPConfig(width=width, ffn_width=config["intermediate_size"])
    attention = AttentionConfig(
        width=width, heads=config["num_attention_heads"], qkv_bias=True, out_bias=True,
        linears=AttentionLinears(k=LinearConfig(bias=False)),
    )  # fmt: skip

    def block(experts: int, routes: tuple[int, ...]) -> PreNormBlockConfig:
        norms = RoutedNormConfig(branches=(norm,) * experts, routes=routes)
        mlps = RoutedMLPConfig(branches=(mlp,) * experts, routes=routes)
        return PreNormBlockConfig(attention=attention, norm=norm, mlp_norm=norms, mlp=mlps)

    # Kinds 2 and 3 are the tokens of pairs: below the last blocks they go where pictures and words go.
    lower, upper = block(2, (0, 1, 0, 1)), block(3, (0, 1, 2, 2))
    return BEiT3Config(
        image_size=config["image_size"], patch_size=config["patch_size"], width=width, norm=norm,
        blocks=(lower,) * (depth - pairs) + (upper,) * pairs, text_positions=config["max_position_embeddings"] + 2,
        vocab_size=config["vocab_size"], mask_token=True, pair_kinds=True,
    )  # fmt: skip


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """A config of our own: sizes, `kind` of the head, and the ids that begin, end and pad a text."""
    kind = config.get("kind", WORDS)
    if kind not in KINDS:
        raise ConfigError(f"vl-beit: kind must be one of {', '.join(KINDS)}; found {kind}")
    tower = tower_of(config)
    model: MultiwayConfig | MultiwayRetrievalConfig
    if kind == RETRIEVAL:
        model = MultiwayRetrievalConfig(tower=tower)
    else:
        outputs = config["vocab_size"] if kind == WORDS else config["num_labels"]
        model = MultiwayConfig(tower=tower, kind=kind, outputs=outputs)
    bos, eos, pad = config.get("bos_token_id", 0), config.get("eos_token_id", 2), config.get("pad_token_id", 1)
    return ModelSpec(
        build=model.build, keys=(keys_of(kind, tower, config["pair_layers"]),),
        parts=drawing(tower, "blocks with experts"),
        assemble=lambda module, files: assemble_multiway(
            module, files, bos=bos, eos=eos, pad=pad, longest=config["max_position_embeddings"]
        ),
    )  # fmt: skip


def keys_of(kind: str, tower: BEiT3Config, pairs: int) -> KeyTable:
    """Names of our own, since none were published: experts by name, the rest as the parts call it."""
    rows: list[Row] = []
    for i in range(len(tower.blocks)):
        theirs, ours = f"blocks.{i}", f"encoder.blocks.{i}"
        for leaf in ("attn_norm", *(f"attn.{name}_proj" for name in "qvo")):
            rows += weight_and_bias(f"{theirs}.{leaf}", f"{ours}.{leaf}")
        rows.append(rename(f"{theirs}.attn.k_proj.weight", f"{ours}.attn.k_proj.weight"))
        experts = EXPERTS if i >= len(tower.blocks) - pairs else EXPERTS[:2]
        for branch, name in enumerate(experts):
            rows += weight_and_bias(f"{theirs}.experts.{name}.norm", f"{ours}.mlp_norm.branches.{branch}")
            for leaf in ("up_proj", "down_proj"):
                rows += weight_and_bias(f"{theirs}.experts.{name}.{leaf}", f"{ours}.mlp.branches.{branch}.{leaf}")
    for name in ("embed_tokens", "picture_positions", "text_positions"):
        rows.append(rename(f"{name}.weight", f"encoder.{name}.weight"))
    rows += [rename(name, f"encoder.{name}") for name in ("class_token", "mask_token")]
    rows += [*weight_and_bias("patch_embed", "encoder.patch_embed"), *weight_and_bias("norm", "encoder.norm")]
    heads = {
        WORDS: ("head",),
        ANSWERS: ("pooler.0", "pooler.1", "head.0", "head.1", "head.3"),
        PAIRS: ("norm", "head.0", "head.1", "head.3"),
        RETRIEVAL: (),
    }[kind]
    for name in heads:
        rows += weight_and_bias("pair_norm" if name == "norm" else name, name)
    if kind == RETRIEVAL:
        rows += [rename(name, name) for name in ("image_proj.weight", "text_proj.weight", "logit_scale")]
    return KeyTable(tuple(rows))
