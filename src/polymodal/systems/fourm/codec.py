"""Files of 4M's codecs: arguments of the official classes VQVAE and DiVAE, and their names.

    encoder.*  quant_proj  quantize.*  post_quant_proj  decoder.*  cls_emb
DiVAE's writing half is a diffusion model over the codes themselves, without post_quant_proj (diffusion.py).
Traps: `vars(args)` of a training run are what a config holds, and the classes ignore what they do not know, so any word
may stand there; sizes of ViTs follow from names (vit_b_enc), `vit_shape` says one's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from polymodal.backbones.encoder import weight_and_bias
from polymodal.encoders.feature_codec import PlaceMLPConfig, TokenViTConfig
from polymodal.errors import ConfigError
from polymodal.generators.feature_codebook import MemoryCodebookConfig, UnitCodebookConfig
from polymodal.generators.guided_keys import guided_rows
from polymodal.generators.patch_diffusion import PatchDiffusionConfig
from polymodal.models.feature_codec import FeatureCodecConfig, Half
from polymodal.systems import CheckpointFiles, ConfigMatch, LoadedModel, ModelSpec, Part
from polymodal.systems.fourm.diffusion import diffuses, writing_half
from polymodal.weights.keytable import KeyTable, Row, drop, rename, split

SHAPES = {"vit_s": (512, 8, 8), "vit_b": (768, 12, 12), "vit_l": (1024, 24, 16)}
MLP = re.compile(r"BottleneckMLP/B_(\d+)-Wi_(\d+)(?:-E_(\d+))?$")
DISTANCES = {"mse": "mse", "l1": "l1", "smooth_l1": "smooth_l1", "cosine_1d": "cosine",
             "binary_cross_entropy": "binary", "cross_entropy": "classes"}  # fmt: skip


def places(channels: int, codes: int, **changes: Any) -> dict[str, Any]:
    """Arguments of a published codec of feature maps: ViT-B on both sides."""
    return {
        "enc_type": "vit_b_enc", "dec_type": "vit_b_dec", "quant_type": "lucid", "norm_codes": True, "latent_dim": 32,
        "num_codebooks": 1, "image_size": 448, "patch_size": 16, "patch_proj": False, "post_mlp": True,
        "n_channels": channels, "codebook_size": codes, **changes,
    }  # fmt: skip


def alone(channels: int, codes: int) -> dict[str, Any]:
    """Arguments of a published codec of single vectors: eight ids each."""
    mlp = "BottleneckMLP/B_6-Wi_1024"
    return {"enc_type": mlp, "dec_type": mlp, "quant_type": "memcodes", "num_codebooks": 8, "latent_dim": 1024,
            "n_channels": channels, "codebook_size": codes, "patch_proj": False}  # fmt: skip


def diffusion(channels: int, codes: int, side: int = 448) -> dict[str, Any]:
    """Arguments of a published codec that writes by diffusion; its notebooks count DDIM's steps."""
    more = {"dec_type": "unet_patched", "beta_schedule": "linear", "prediction_type": "sample", "scheduler": "ddim"}
    return places(channels, codes, image_size=side, patch_proj=True, **more)


CODEC = ConfigMatch(score=lambda config: "enc_type" in config and not diffuses(config), keys=("enc_type",))
DIFFUSION_CODEC = ConfigMatch(score=lambda config: "enc_type" in config and diffuses(config), keys=("enc_type",))


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """Arguments of VQVAE or DiVAE."""
    classes, channels = config.get("n_labels"), config.get("n_channels", 3)
    side, patch = config.get("image_size", 224), config.get("patch_size", 16)
    reader = _half(config, "enc", channels, (config.get("image_size_enc") or side, patch))
    writer: Half | PatchDiffusionConfig | None
    if diffuses(config):
        writer = writing_half(config)
        if classes is not None:
            raise ConfigError("fourm codec: classes (n_labels) do not go with a writing half that diffuses")
    else:
        writer_side = (config.get("image_size_dec") or side, config.get("patch_size_dec") or patch)
        writer = _half(config, "dec", channels if classes is None else classes, writer_side)
    loss = config.get("loss_fn", "mse")
    if loss not in DISTANCES:
        raise ConfigError(f"fourm codec: loss_fn is one of {', '.join(DISTANCES)}, found {loss!r}")
    if (classes is not None) != (DISTANCES[loss] == "classes") and "loss_fn" in config and writer is not None:
        raise ConfigError(f"fourm codec: loss_fn {loss!r} does not go with n_labels {classes}")
    distance: Any = DISTANCES[loss]
    model = FeatureCodecConfig(reader=reader, writer=writer, codebook=_codebook(config), classes=classes,
                               distance=distance)  # fmt: skip
    return ModelSpec(build=model.build, keys=(_keys(model),), parts=_drawing(model), assemble=assemble, tokenizer=False)


def _half(config: Mapping[str, Any], which: str, channels: int, size: tuple[int, int]) -> Half:
    name = str(config.get(f"{which}_type", f"vit_b_{which}"))
    width = config.get("latent_dim", 32)
    if found := MLP.match(name):
        depth, inner, factor = int(found[1]), int(found[2]), int(found[3] or 4)
        source, target = (channels, inner) if which == "enc" else (inner, channels)
        return PlaceMLPConfig(width=inner, depth=depth, source=source, target=target, factor=factor)
    shape = SHAPES.get(name.removesuffix(f"_{which}"))
    if own := config.get("vit_shape"):
        shape = (own["dim_tokens"], own["depth"], own["num_heads"])
    if shape is None or not name.endswith(f"_{which}"):
        known = ", ".join([*(f"{each}_{which}" for each in SHAPES), "BottleneckMLP/B_6-Wi_1024"])
        raise ConfigError(f"fourm codec: {which}_type is {known}, found {name!r}")
    side, patch = size
    if width < 1 or side % patch:
        raise ConfigError(f"fourm codec: patches of {patch} do not fill {side} pixels")
    writes = which == "dec"
    return TokenViTConfig(
        width=shape[0], depth=shape[1], heads=shape[2], channels=channels, grid=(side // patch, side // patch),
        patch=patch if config.get("patch_proj", True) else 1, tanh=config.get("post_mlp", False),
        smooth=writes and config.get("out_conv", False),
    )  # fmt: skip


def _codebook(config: Mapping[str, Any]) -> UnitCodebookConfig | MemoryCodebookConfig:
    size, width = config.get("codebook_size", 16_384), config.get("latent_dim", 32)
    heads, kind = config.get("num_codebooks", 1), config.get("quant_type", "lucid")
    if kind == "memcodes" and heads > 1 and not width % heads:
        return MemoryCodebookConfig(size=int(size), width=width, heads=heads)
    if kind != "lucid" or heads != 1 or config.get("norm_latents", False):
        raise ConfigError(f"fourm codec: quant_type is lucid with one codebook, or memcodes with several that divide "
                          f"latent_dim, and norm_latents false; found {kind!r} with {heads}")  # fmt: skip
    dead = config.get("threshold_ema_dead_code", 0.25)
    return UnitCodebookConfig(size=int(size), width=width, cosine=config.get("norm_codes", True),
                              decay=config.get("ema_decay", 0.99), dead=dead)  # fmt: skip


def _keys(model: FeatureCodecConfig) -> KeyTable:
    rows = [*weight_and_bias("quant_proj", "to_code"), *_half_keys(model.reader, "encoder", "reader")]
    if model.classes is not None:
        rows.append(rename("cls_emb.weight", "class_embedding.weight"))
    if model.writer is None:
        rows.append(drop("decoder.**"))
    elif isinstance(model.writer, PatchDiffusionConfig):
        rows += guided_rows(model.writer.unet, "decoder.", "writer.unet.")
    else:
        rows += [*weight_and_bias("post_quant_proj", "from_code"), *_half_keys(model.writer, "decoder", "writer")]
    if isinstance(model.codebook, MemoryCodebookConfig):
        rows += [rename("quantize.codes", "codebook.codes"), rename("quantize.to_k.weight", "codebook.keys"),
                 rename("quantize.to_v.weight", "codebook.values")]  # fmt: skip
    else:
        names = {"embed": "codes", "cluster_size": "usage", "initted": "started"}
        names |= {} if model.codebook.cosine else {"embed_avg": "average"}
        rows += [rename(f"quantize._codebook.{theirs}", f"codebook.{ours}") for theirs, ours in names.items()]
    return KeyTable(tuple(rows))


def _half_keys(half: Half, theirs: str, ours: str) -> list[Row]:
    at, to = f"{theirs}.blocks.{{}}", f"{ours}.blocks.{{}}"
    if isinstance(half, PlaceMLPConfig):
        return [*weight_and_bias(f"{theirs}.linear_in", f"{ours}.proj_in"),
                *weight_and_bias(f"{theirs}.linear_out", f"{ours}.proj_out"),
                *weight_and_bias(f"{theirs}.layernorms.{{}}", f"{ours}.norms.{{}}"),
                *weight_and_bias(f"{at}.block.0", f"{to}.up_proj"),
                *weight_and_bias(f"{at}.block.2", f"{to}.down_proj")]  # fmt: skip
    last = "proj" if theirs == "encoder" else "out_proj"
    rows = [rename(f"{theirs}.pos_emb", f"{ours}.positions"), *weight_and_bias(f"{theirs}.{last}", f"{ours}.proj")]
    for leaf in ("weight", "bias"):
        rows.append(split(f"{at}.attn.qkv.{leaf}", [f"{to}.attn.{part}_proj.{leaf}" for part in "qkv"]))
    pairs = {"norm1": "attn_norm", "norm2": "mlp_norm", "attn.proj": "attn.o_proj", "mlp.fc1": "mlp.up_proj",
             "mlp.fc2": "mlp.down_proj"}  # fmt: skip
    rows += [row for one, other in pairs.items() for row in weight_and_bias(f"{at}.{one}", f"{to}.{other}")]
    if half.tanh:
        outer = {"norm_mlp": "mlp_norm", "post_mlp.fc1": "mlp.up_proj", "post_mlp.fc2": "mlp.down_proj"}
        rows += [row for a, b in outer.items() for row in weight_and_bias(f"{theirs}.{a}", f"{ours}.{b}")]
    if half.smooth:
        smooth = {"dwconv": "conv", "norm": "norm", "pwconv1": "mlp.up_proj", "pwconv2": "mlp.down_proj"}
        rows += [row for a, b in smooth.items()
                 for row in weight_and_bias(f"{theirs}.out_conv.{{}}.{a}", f"{ours}.smooth.{{}}.{b}")]  # fmt: skip
        rows.append(rename(f"{theirs}.out_conv.{{}}.gamma", f"{ours}.smooth.{{}}.scale"))
    return rows


def _drawing(model: FeatureCodecConfig) -> tuple[Part, ...]:
    book = model.codebook
    ids = "[N, h, w]" if book.heads == 1 else f"[N, {book.heads}, h, w]"
    read = "classes [N, H, W]" if model.classes is not None else "[N, C, H, W]"
    reader = Part(slot="encoder", modality="image", name="reading half", prefix="reader", input=read,
                  output=f"[N, {book.width}, h, w]")  # fmt: skip
    codes = Part(slot="generator", modality="image", name=f"codes {book.size} x {book.width}", prefix="to_code",
                 input=f"[N, {book.width}, h, w]", output=f"ids {ids}")  # fmt: skip
    if model.writer is None:
        return reader, codes
    how = ", by diffusion" if isinstance(model.writer, PatchDiffusionConfig) else ""
    return (reader, codes, Part(slot="generator", modality="image", name=f"writing half{how}", prefix="writer",
                                input=f"[N, {book.width}, h, w]", output="[N, C, H, W]"))  # fmt: skip


def assemble(module: nn.Module, files: CheckpointFiles) -> LoadedModel:
    """A codec is asked by tensors: `model.module.image_tokens(...)` and `.write(ids)`."""
    return LoadedModel(model=module, processor=None)
