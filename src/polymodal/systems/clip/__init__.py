"""CLIP: pictures and sentences as vectors of one space, compared by cosine.

Paper: Learning Transferable Visual Models From Natural Language Supervision (arXiv 2103.00020).

    picture -> resize, crop -> ViT or ResNet -> [N, E] -------+-> unit length -> dot product * exp(logit_scale)
    text -> BPE, 77 tokens -> causal transformer -> [B, E] ---+                      (no fusion but the dot product)

Traps: OpenAI's weights need quick_gelu; the official files fuse q, k, v and transpose the projections; `eos_token_id` 2
means "at the highest id"; the official code pads with 0, the library with the end token, and both pool at the first
end token, which causal attention makes the same.
"""

from __future__ import annotations

from polymodal.systems import Repository, System, Variant
from polymodal.systems.clip.checkpoint import LAYOUTS
from polymodal.systems.clip.recipe import RECIPE


def vit(name: str, parameters: int, width: int, depth: int, patch: int, embed: int, side: int = 224) -> Variant:
    """An OpenAI checkpoint on the hub; the text encoder has 12 layers and the width of the joint space."""
    vision = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": width // 64, "image_size": side,
              "intermediate_size": 4 * width, "patch_size": patch, "projection_dim": embed}  # fmt: skip
    text = {"hidden_size": embed, "intermediate_size": 4 * embed, "num_attention_heads": embed // 64,
            "projection_dim": embed, "eos_token_id": 2}  # fmt: skip
    config = {"model_type": "clip", "architectures": ["CLIPModel"], "projection_dim": embed, "vision_config": vision,
              "text_config": text}  # fmt: skip
    hub = f"openai/clip-vit-{'base' if depth == 12 else 'large'}-patch{patch}{'' if side == 224 else '-336'}"
    return Variant(name=name, parameters=parameters, config=config, repository=Repository(name=hub, license="MIT"))


def resnet(name: str, parameters: int, embed: int, side: int, depths: tuple[int, ...], width: int) -> Variant:
    """An official file with a ResNet; the text encoder's width follows the joint space of the ViT of its size."""
    text = {"rn50": 512, "rn101": 512, "rn50x4": 640, "rn50x16": 768, "rn50x64": 1024}[name]
    config = {"embed_dim": embed, "image_resolution": side, "vision_layers": depths, "vision_width": width,
              "vision_patch_size": None, "context_length": 77, "vocab_size": 49408, "transformer_width": text,
              "transformer_heads": text // 64, "transformer_layers": 12}  # fmt: skip
    repository = Repository(kind="official", name=f"openai/CLIP {name.replace('rn', 'RN')}.pt", license="MIT")
    return Variant(name=name, parameters=parameters, config=config, format=1, repository=repository)


SYSTEM = System(
    id="clip",
    aliases=("CLIP", "Contrastive Language-Image Pre-training"),
    year=2021,
    fusion=(),
    assembly="DualEncoder",
    inputs=("text", "image"),
    outputs=("embedding",),
    formats=LAYOUTS,
    variants=(
        vit("b-32", 151_277_313, 768, 12, 32, 512),
        vit("b-16", 149_620_737, 768, 12, 16, 512),
        vit("l-14", 427_616_513, 1024, 24, 14, 768),
        vit("l-14-336", 427_944_193, 1024, 24, 14, 768, 336),
        resnet("rn50", 102_007_137, 1024, 224, (3, 4, 6, 3), 64),
        resnet("rn101", 119_688_033, 512, 224, (3, 4, 23, 3), 64),
        resnet("rn50x4", 178_300_601, 640, 288, (4, 6, 10, 6), 80),
        resnet("rn50x16", 290_979_217, 768, 384, (6, 8, 18, 8), 96),
        resnet("rn50x64", 623_258_305, 1024, 448, (3, 15, 36, 10), 128),
    ),
    headline="classifies pictures into classes of which it knows the names alone, and finds pictures by sentences",
    reference="arXiv 2103.00020",
    recipe=RECIPE,
)  # fmt: skip
