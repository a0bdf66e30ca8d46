"""Chameleon's image codec with one codebook (VQ-GAN, arXiv 2012.09841; Make-A-Scene, 2203.13131).

    pixel_values [N,3,H,W] -> encoder -> quant_conv -> nearest code -> ids [N,h,w], raster order        (encode)
    ids [N,h,w] -> code vectors -> post_quant_conv -> decoder -> pixels [N,3,H,W] in about [-1,1]       (decode)

Key tables: the names in transformers' ChameleonVQVAE and in the official vqgan.ckpt differ only in their prefix.
Traps: transformers' class has no decoder, though it keeps `post_quant_conv`; `decode=False` builds the same.
The config lists attention by resolution (for an image of the nominal size), not by level.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from polymodal.errors import ConfigError
from polymodal.generators.codebook import Codebook
from polymodal.generators.conv_stack import ConvDecoder, ConvEncoder, ConvStackConfig
from polymodal.weights.keytable import KeyTable, Row, drop, pair, rename
from polymodal.weights.operations import Squeeze


@dataclass(frozen=True, kw_only=True)
class VQCodecConfig:
    """codes: size of the codebook; width: of a code vector.  decode: build the decoder."""

    stack: ConvStackConfig
    codes: int = 8192
    width: int = 256
    decode: bool = True

    def build(self) -> "VQCodec":
        return VQCodec(self)


class VQCodec(nn.Module):
    """See the module docstring."""

    decoder: ConvDecoder | None

    def __init__(self, config: VQCodecConfig):
        super().__init__()
        self.config = config
        self.encoder: ConvEncoder = config.stack.build_encoder()
        self.codebook = Codebook(config.codes, config.width)
        self.quant_conv = nn.Conv2d(config.stack.latent, config.width, 1)
        self.post_quant_conv = nn.Conv2d(config.width, config.stack.latent, 1)
        self.decoder = config.stack.build_decoder() if config.decode else None

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Same as `encode`."""
        return self.encode(pixel_values)

    def encode(self, pixel_values: Tensor) -> Tensor:
        """`[N, 3, H, W] -> ids [N, H / factor, W / factor]` int64."""
        latents = self.quant_conv(self.encoder(pixel_values))
        return self.codebook.nearest(latents.movedim(1, -1))

    def decode(self, ids: Tensor) -> Tensor:
        """`ids [N, h, w] -> pixels [N, 3, H, W]`.  Raises ConfigError if the codec has no decoder."""
        if self.decoder is None:
            raise ConfigError("this codec has no decoder: its checkpoint has the encoder only")
        vectors = self.codebook(ids).movedim(-1, 1)
        return self.decoder(self.post_quant_conv(vectors))


def parse_config(config: Mapping[str, Any], decode: bool = False) -> VQCodecConfig:
    """The codec of a ChameleonVQVAEConfig dict of transformers.  Raises ConfigError for unsupported options."""
    if config.get("double_latent"):
        raise ConfigError("vq_config.double_latent is not supported: no published codec quantises a double latent")
    attention = config.get("attn_type", "vanilla")
    if attention not in ("vanilla", None, "None", "none"):
        raise ConfigError(f"vq_config.attn_type: expected 'vanilla' or None, found {attention!r}")
    base, multipliers = config.get("base_channels", 128), config.get("channel_multiplier", (1, 1, 2, 2, 4))
    resolutions = config.get("attn_resolutions") or ()
    sides = [config.get("resolution", 512) // (1 << level) for level in range(len(multipliers))]
    vanilla = attention == "vanilla"
    return VQCodecConfig(
        stack=ConvStackConfig(
            channels=tuple(base * m for m in multipliers),
            base=base,
            blocks=config.get("num_res_blocks", 2),
            attention=tuple(i for i, side in enumerate(sides) if vanilla and side in resolutions),
            middle=vanilla,
            pixels=config.get("in_channels", 3),
            latent=config.get("latent_channels", 256),
        ),
        codes=config.get("num_embeddings", 8192),
        width=config.get("embed_dim", 256),
        decode=decode,
    )


def official_config(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """The config of an official vqgan.ckpt, inferred from its shapes, None for other files.

    The file does not show resolutions; `attn_resolutions` assumes images of 512 pixels, which selects the same levels.
    """
    if "quantize.embedding.weight" not in shapes or "decoder.up.0.block.0.conv1.weight" not in shapes:
        return None
    level = "encoder.down.{}.block.{}.conv1.weight"
    depth = next(i for i in itertools.count() if level.format(i, 0) not in shapes)
    codes, width = shapes["quantize.embedding.weight"]
    base, pixels = shapes["encoder.conv_in.weight"][:2]
    attention_levels = [i for i in range(depth) if f"encoder.down.{i}.attn.0.q.weight" in shapes]
    return {
        "model_type": "chameleon_vqgan_official", "embed_dim": width, "num_embeddings": codes, "base_channels": base,
        "latent_channels": shapes["encoder.conv_out.weight"][0], "in_channels": pixels,
        "channel_multiplier": [shapes[level.format(i, 0)][0] // base for i in range(depth)],
        "num_res_blocks": next(i for i in itertools.count() if level.format(0, i) not in shapes),
        "attn_resolutions": [512 >> i for i in attention_levels], "resolution": 512,
        "attn_type": "vanilla" if "encoder.mid.attn_1.q.weight" in shapes else None,
    }  # fmt: skip


def _block(source: str, target: str) -> tuple[Row, ...]:
    rows = [
        row for leaf in ("norm1", "conv1", "norm2", "conv2") for row in pair(f"{source}.{leaf}", f"{target}.{leaf}")
    ]
    return (*rows, *pair(f"{source}.nin_shortcut", f"{target}.shortcut"))


def _attention(source: str, target: str) -> tuple[Row, ...]:
    names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "proj_out": "o_proj"}
    linears = [
        row for a, b in names.items() for row in pair(f"{source}.{a}", f"{target}.attn.{b}", Squeeze(3), Squeeze(2))
    ]
    return (*pair(f"{source}.norm", f"{target}.norm"), *linears)


def half_rows(side: str, way: str, resize: str) -> tuple[Row, ...]:
    """The encoder or the decoder by the names of the first latent diffusion code."""
    level, ours = f"{side}.{way}.{{}}", f"{side}.levels.{{}}"
    ends = [row for leaf in ("conv_in", "norm_out", "conv_out") for row in pair(f"{side}.{leaf}", f"{side}.{leaf}")]
    return (
        *ends,
        *_block(f"{level}.block.{{}}", f"{ours}.blocks.{{}}"),
        *_attention(f"{level}.attn.{{}}", f"{ours}.attentions.{{}}"),
        *pair(f"{level}.{resize}.conv", f"{ours}.resize"),
        *_block(f"{side}.mid.block_1", f"{side}.middle.first"),
        *_attention(f"{side}.mid.attn_1", f"{side}.middle.attention"),
        *_block(f"{side}.mid.block_2", f"{side}.middle.second"),
    )


def keys(config: VQCodecConfig) -> KeyTable:
    """Published names (the same in transformers and vqgan.ckpt) -> those of a VQCodec; strict both ways.

    A codec without decoder drops `decoder.**`; the modules of the official training losses are dropped too.
    """
    decoder = half_rows("decoder", "up", "upsample") if config.decode else (drop("decoder.**"),)
    return KeyTable(
        (
            *half_rows("encoder", "down", "downsample"),
            rename("quantize.embedding.weight", "codebook.embedding.weight"),
            *pair("quant_conv", "quant_conv"),
            *pair("post_quant_conv", "post_quant_conv"),
            *decoder,
            drop("loss.**"),
        )
    )
