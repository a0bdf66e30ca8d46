"""Official CLIP state dicts: infers the encoders from tensor names and shapes, as the official loader does.

Paper: CLIP (arXiv 2103.00020); openai/CLIP, files RN50.pt ... ViT-L-14-336px.pt.

    shapes -> infer -> the constructor's arguments ("vision_width", ...) -> image_config, text_config -> encoder configs
    official names -> keys(config) -> encoders.image.*, encoders.text.*, logit_scale

Traps: the number of heads is width // 64; `vision_layers` is one number for a ViT and four for a ResNet; the archives
also hold three scalars (`input_resolution`, ...) that are not weights; text is pooled at the highest token id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from polymodal.encoders import clip_resnet, clip_text, clip_vit
from polymodal.encoders.clip_resnet import ClipResNetConfig
from polymodal.encoders.clip_text import ClipTextConfig
from polymodal.encoders.vit import ViTConfig
from polymodal.weights.keytable import KeyTable, drop, rename
from polymodal.weights.operations import Unsqueeze


def infer(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any] | None:
    """Arguments of the official constructor for a state dict with these shapes; None if it is not a CLIP state dict."""
    if "visual.conv1.weight" not in shapes or "text_projection" not in shapes or "ln_final.weight" not in shapes:
        return None
    blocks = {name.split(".")[2] for name in shapes if name.startswith("transformer.resblocks.")}
    width = shapes["ln_final.weight"][0]
    text = {
        "embed_dim": shapes["text_projection"][1],
        "context_length": shapes["positional_embedding"][0],
        "vocab_size": shapes["token_embedding.weight"][0],
        "transformer_width": width,
        "transformer_heads": width // 64,
        "transformer_layers": len(blocks),
    }
    if "visual.proj" in shapes:
        patch = shapes["visual.conv1.weight"][-1]
        return text | {
            "image_resolution": patch * round((shapes["visual.positional_embedding"][0] - 1) ** 0.5),
            "vision_layers": sum(
                name.startswith("visual.") and name.endswith(".attn.in_proj_weight") for name in shapes
            ),
            "vision_width": shapes["visual.conv1.weight"][0],
            "vision_patch_size": patch,
        }
    return text | {
        "image_resolution": 32 * round((shapes["visual.attnpool.positional_embedding"][0] - 1) ** 0.5),
        "vision_layers": tuple(
            len({name.split(".")[2] for name in shapes if name.startswith(f"visual.layer{stage}.")})
            for stage in (1, 2, 3, 4)
        ),
        "vision_width": shapes["visual.layer1.0.conv1.weight"][0],
        "vision_patch_size": None,
    }


def image_config(config: Mapping[str, Any]) -> ViTConfig | ClipResNetConfig:
    """The image encoder with its projection."""
    layers, width = config["vision_layers"], config["vision_width"]
    if not isinstance(layers, int):
        one, two, three, four = layers
        return ClipResNetConfig(
            width=width,
            depths=(one, two, three, four),
            embed_width=config["embed_dim"],
            image_size=config["image_resolution"],
        )
    return clip_vit.clip_vit(
        width=width,
        depth=layers,
        patch_size=config["vision_patch_size"],
        image_size=config["image_resolution"],
        embed_width=config["embed_dim"],
    )


def text_config(config: Mapping[str, Any]) -> ClipTextConfig:
    """The text encoder with its projection."""
    encoder = clip_text.clip_text(
        width=config["transformer_width"],
        depth=config["transformer_layers"],
        heads=config["transformer_heads"],
        vocab_size=config["vocab_size"],
        out_width=config["embed_dim"],
    )
    return replace(encoder, positions=config["context_length"])


def keys(config: Mapping[str, Any]) -> KeyTable:
    """Official names -> those of a DualEncoder."""
    image = clip_vit.OPENAI_KEYS if isinstance(config["vision_layers"], int) else clip_resnet.openai_keys()
    rest = KeyTable(
        (
            rename("logit_scale", "logit_scale", Unsqueeze()),
            *(drop(name) for name in ("input_resolution", "context_length", "vocab_size")),
        )
    )
    return image.prefixed(target="encoders.image.") + clip_text.OPENAI_KEYS.prefixed(target="encoders.text.") + rest
