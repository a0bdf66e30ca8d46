"""The Perceiver resampler of Flamingo: any number of features in, a fixed number of latents out.

Paper: Flamingo (arXiv 2204.14198), after Perceiver (arXiv 2103.03206).

Flow
    features [N, S, D] (+ frame positions, + media positions); blocks do not update them
    latents  [Q, D], learned -> blocks: latents += attn(query = latents, keys = concat(features, latents))
                                        latents += mlp(norm(latents))           -> norm -> [N, Q, D]
    -> (project) -> [N, Q, Dout]

One class, three published variants:
    Flamingo      activation "squared_relu", frame positions
    OpenFlamingo  activation "gelu", heads 8 x 64, no positions, no project (the width stays that of the encoder)
    IDEFICS       activation "relu", layer norm per head on queries and keys

Traps
- The latents are keys too; features and latents have separate norms.
- Linears have no bias; norms do.
- Published files fuse keys and values (`to_kv`, keys first).
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from polymodal.connectors.linear import ConnectorConfig
from polymodal.errors import ConfigError
from polymodal.nn.attention import AttentionConfig
from polymodal.nn.mlp import MLPConfig
from polymodal.nn.norm import LayerNormConfig, NormConfig
from polymodal.weights.keytable import KeyTable, Row, rename, split
from polymodal.weights.operations import Squeeze


@dataclass(frozen=True, kw_only=True)
class ResamplerConfig:
    """Defaults are OpenFlamingo's.

    `latents`: features out.  `ffn_width`: None means four times the width.  `max_frames`, `max_media`: None means
    no such positions.  `project`: None keeps the encoder's width, then the output width must equal it.
    """

    latents: int = 64
    depth: int = 6
    heads: int = 8
    head_dim: int = 64
    ffn_width: int | None = None
    activation: str = "gelu"
    norm: NormConfig = field(default_factory=LayerNormConfig)
    q_norm: NormConfig | None = None
    k_norm: NormConfig | None = None
    max_frames: int | None = None
    max_media: int | None = None
    project: ConnectorConfig | None = None

    def build(self, in_width: int, out_width: int) -> "Resampler":
        """Build the connector with fresh weights; raises ConfigError if the widths differ without a `project`."""
        if self.project is None and in_width != out_width:
            raise ConfigError(f"resampler: expected out_width {in_width}, found {out_width}; set project to change it")
        return Resampler(self, in_width, out_width)

    def tokens(self, n_in: int) -> int:
        """Features out for `n_in` features in."""
        return self.latents if self.project is None else self.project.tokens(self.latents)


class ResamplerBlock(nn.Module):
    """Attention of the latents to features and latents, then a feed-forward on the latents."""

    def __init__(self, config: ResamplerConfig, width: int) -> None:
        super().__init__()
        self.feature_norm = config.norm.build(width)
        self.latent_norm = config.norm.build(width)
        self.attn = AttentionConfig(
            width=width,
            heads=config.heads,
            head_dim=config.head_dim,
            q_norm=config.q_norm,
            k_norm=config.k_norm,
            source_width=width,
        ).build()
        self.mlp_norm = config.norm.build(width)
        self.mlp = MLPConfig(
            width=width, ffn_width=config.ffn_width or 4 * width, activation=config.activation, bias=False
        ).build()

    def forward(self, latents: Tensor, features: Tensor) -> Tensor:
        """latents [N, Q, D], features [N, S, D] -> latents [N, Q, D]."""
        queries = self.latent_norm(latents)
        source = torch.cat((self.feature_norm(features), queries), dim=1)
        latents = latents + self.attn(queries, source=source)
        return latents + self.mlp(self.mlp_norm(latents))


class Resampler(nn.Module):
    """`[N, S, Din] -> [N, latents, Dout]`; see the module docstring for the flow."""

    def __init__(self, config: ResamplerConfig, in_width: int, out_width: int) -> None:
        super().__init__()
        self.config = config
        self.latents = nn.Parameter(torch.randn(config.latents, in_width))
        self.frame_positions = _positions(config.max_frames, in_width)
        self.media_positions = _positions(config.max_media, in_width)
        self.blocks = nn.ModuleList(ResamplerBlock(config, in_width) for _ in range(config.depth))
        self.norm = config.norm.build(in_width)
        self.project = None if config.project is None else config.project.build(in_width, out_width)

    def forward(self, features: Tensor, media_index: Tensor | None = None) -> Tensor:
        """Compress float [N, S, Din] to [N, latents, Dout].

        With `max_frames`, features are [N, frames, S, Din] and each frame gets a position.  With `max_media`,
        media_index int [N] is the index of each item in its sequence, from 0.  Raises ConfigError if these are
        missing, unexpected, or out of range.
        """
        x = self._add_media(self._add_frames(features), media_index)
        latents = self.latents.expand(x.shape[0], -1, -1)
        for block in self.blocks:
            latents = block(latents, x)
        latents = self.norm(latents)
        return latents if self.project is None else self.project(latents)

    def _add_frames(self, features: Tensor) -> Tensor:
        dims = 3 if self.frame_positions is None else 4
        if features.dim() != dims:
            expected = "[N, S, D]" if dims == 3 else "[N, frames, S, D]"
            raise ConfigError(f"resampler: features must be {expected}, found {list(features.shape)}")
        if self.frame_positions is None:
            return features
        frames, limit = features.shape[1], self.frame_positions.shape[0]
        if frames > limit:
            raise ConfigError(f"resampler: expected at most {limit} frames, found {frames}; sample fewer frames")
        return (features + self.frame_positions[:frames, None]).flatten(1, 2)

    def _add_media(self, x: Tensor, media_index: Tensor | None) -> Tensor:
        if (media_index is None) != (self.media_positions is None):
            problem = "is missing" if media_index is None else "needs max_media in the config"
            raise ConfigError(f"resampler: media_index {problem}")
        if self.media_positions is None or media_index is None:
            return x
        limit = self.media_positions.shape[0]
        if media_index.numel() and int(media_index.max()) >= limit:
            raise ConfigError(
                f"resampler: expected at most {limit} items per sequence, found {int(media_index.max()) + 1}"
            )
        return x + self.media_positions[media_index][:, None]


def _positions(count: int | None, width: int) -> nn.Parameter | None:
    return None if count is None else nn.Parameter(torch.randn(count, width))


def _norm(source: str, target: str) -> tuple[Row, Row]:
    return rename(f"{source}.weight", f"{target}.weight"), rename(f"{source}.bias", f"{target}.bias")


_B = "blocks.{}"
OPEN_FLAMINGO_KEYS = KeyTable(
    (
        rename("latents", "latents"),
        rename("frame_embs", "frame_positions"),
        rename("media_time_embs", "media_positions", Squeeze(1)),
        *_norm("layers.{}.0.norm_media", f"{_B}.feature_norm"),
        *_norm("layers.{}.0.norm_latents", f"{_B}.latent_norm"),
        rename("layers.{}.0.to_q.weight", f"{_B}.attn.q_proj.weight"),
        split("layers.{}.0.to_kv.weight", (f"{_B}.attn.k_proj.weight", f"{_B}.attn.v_proj.weight")),
        rename("layers.{}.0.to_out.weight", f"{_B}.attn.o_proj.weight"),
        *_norm("layers.{}.1.0", f"{_B}.mlp_norm"),
        rename("layers.{}.1.1.weight", f"{_B}.mlp.up_proj.weight"),
        rename("layers.{}.1.3.weight", f"{_B}.mlp.down_proj.weight"),
        *_norm("norm", "norm"),
    )
)
"""OpenFlamingo's names (under `perceiver.`) -> ours."""

IDEFICS_KEYS = KeyTable(
    (
        rename("latents", "latents"),
        *_norm("blocks.{}.0.context_layer_norm", f"{_B}.feature_norm"),
        *_norm("blocks.{}.0.latents_layer_norm", f"{_B}.latent_norm"),
        *_norm("blocks.{}.0.q_layer_norm", f"{_B}.attn.q_norm"),
        *_norm("blocks.{}.0.k_layer_norm", f"{_B}.attn.k_norm"),
        rename("blocks.{}.0.q_proj.weight", f"{_B}.attn.q_proj.weight"),
        rename("blocks.{}.0.k_proj.weight", f"{_B}.attn.k_proj.weight"),
        rename("blocks.{}.0.v_proj.weight", f"{_B}.attn.v_proj.weight"),
        rename("blocks.{}.0.output_proj.weight", f"{_B}.attn.o_proj.weight"),
        *_norm("blocks.{}.1.ln", f"{_B}.mlp_norm"),
        rename("blocks.{}.1.fc.weight", f"{_B}.mlp.up_proj.weight"),
        rename("blocks.{}.1.c_proj.weight", f"{_B}.mlp.down_proj.weight"),
        *_norm("layer_norm", "norm"),
    )
)
"""IDEFICS' names (under `model.perceiver_resampler.`) -> ours."""
