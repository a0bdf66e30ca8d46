"""Unified-IO 2: words, pictures, videos and sound read and written by one encoder-decoder that learned from scratch.

Paper: Unified-IO 2 (arXiv 2312.17172).  Code: allenai/unified-io-2.pytorch (Apache-2.0).

    picture -> CLIP ViT-B/16, two of its blocks -> linear [N, 576, D];  earlier frames -> resampler [F, 32, D]
    sound -> AST, two of its blocks -> linear [N, 128, D];  earlier windows -> resampler [F, 16, D]
    "[Text] [S] " + words, all of these -> T5's encoder with rotary places                                      (D)
    -> decoder -> words and places | 1024 codes of a picture -> VQGAN | 512 codes of sound -> ViT-VQGAN -> HiFi-GAN

Files: the weights with LLaMA's `tokenizer.model`; beside them `vocoder/`, without which no sound is made (vocoder.py).

Traps: three vocabularies, each with a start of its own; location tokens count backwards; logits are divided by the
root of the width; q and k have norms (processing.py, backbones/unified_io_2.py have the rest).
"""

from __future__ import annotations

from typing import Any

from polymodal.systems import CheckpointFormat, ConfigMatch, Repository, System, Variant
from polymodal.systems.unified_io_2.checkpoint import parse_config
from polymodal.systems.unified_io_2.recipe import RECIPE
from polymodal.systems.unified_io_2.vocoder import CONFIG, ENTRY, PARAMETERS, matches, parse_vocoder


def _size(name: str, parameters: int, t5: dict[str, int], resampler: dict[str, Any]) -> Variant:
    config = {"t5_config": {"num_encoder_layers": 24, "num_decoder_layers": 24, **t5},
              "image_history_cfg": {**resampler, "latents_size": 32},
              "audio_history_cfg": {**resampler, "latents_size": 16}, "image_vqgan": {}, "audio_vqgan": {},
              "image_vit_cfg": {}, "audio_vit_cfg": {}}  # fmt: skip
    repository = Repository(name=f"allenai/uio2-{name}", license="Apache-2.0")
    return Variant(name=name, parameters=parameters, config=config, repository=repository)


WIDER: dict[str, Any] = {"emb_dim": 1024, "num_heads": 16, "mlp_dim": 4096}
COSINE = {**WIDER, "xattn_scaled_cosine": True, "xattn_qk_norm": False}
SYSTEM = System(
    id="unified-io-2",
    aliases=("Unified-IO 2", "UnifiedIO2", "UIO-2"),
    year=2023,
    fusion=("D",),
    assembly="UnifiedIO2",
    inputs=("text", "image", "video", "audio"),
    outputs=("text", "image", "audio"),
    headline="reads and writes words, pictures and sound by one encoder-decoder that learned from scratch",
    reference="arXiv 2312.17172",
    formats=(
        CheckpointFormat(
            name="official torch port of Unified-IO 2",
            parse_config=parse_config,
            matches=ConfigMatch(keys=("t5_config",)),
        ),
        CheckpointFormat(name="official HiFi-GAN, the vocoder alone", parse_config=parse_vocoder, entry=ENTRY,
                         matches=ConfigMatch(keys=("num_freq",), score=matches)),
    ),
    variants=(
        _size("large", 1_080_595_919, {"emb_dim": 1024, "num_heads": 16, "head_dim": 64, "mlp_dim": 2816}, {}),
        _size("xl", 3_175_415_247, {"emb_dim": 2048, "num_heads": 16, "head_dim": 128, "mlp_dim": 5120}, WIDER),
        _size("xxl", 6_864_176_143, {"emb_dim": 3072, "num_heads": 24, "head_dim": 128, "mlp_dim": 8192}, COSINE),
        Variant(name="vocoder", parameters=PARAMETERS, config=CONFIG, format=1),
    ),
    recipe=RECIPE,
)  # fmt: skip
