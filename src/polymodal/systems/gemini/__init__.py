"""Gemini 1.0: words, pictures, sound and frames of videos in any order, answered in words and pictures.

Paper: Gemini: A Family of Highly Capable Multimodal Models (arXiv 2312.11805).  Neither code nor weights were released.

    picture, frame -> ViT -> linear --.
    sound at 16 kHz -> encoder of speech -> linear --+-> among the words -> decoder, one head of keys and values
    -> words | ids of a picture, behind those of text in the same table -> codec -> pixels             (fusion D)

Published: a decoder of transformers with multi-query attention, 32,768 tokens; trained on all modalities from the
beginning; sound as features of USM at 16 kHz; a video is its frames, 16 of them where it was measured; pictures are
written as discrete tokens; SentencePiece; Nano-1 holds 1.8 and Nano-2 3.25 billion parameters.
Not published: widths, depths and vocabulary of any size, how pictures are encoded, the codec of written pictures,
prompts, data sizes, batches, rates, losses.  Released parts stand for these, at sizes chosen here: Gemma's decoder,
SigLIP, Whisper's encoder, Emu3's codec.  The JSON of the published interface: `contents.py`.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, System, Variant, hf
from polymodal.systems.gemini.checkpoint import ILLUSTRATIVE, parse_config
from polymodal.systems.gemini.recipe import RECIPE

SYSTEM = System(
    id="gemini",
    aliases=("Gemini", "Gemini 1.0"),
    year=2023,
    fusion=("D",),
    assembly="PictureWritingLM",
    inputs=("text", "image", "audio", "video"),
    outputs=("text", "image"),
    headline="words, pictures, sound and frames in any order, answered in words and pictures (from the public report: "
    "multi-query decoder, 32k tokens, picture tokens out; sizes, encoders, codec and training were not published, the "
    "parts and sizes here are stand-ins)",
    reference="paper: Gemini, arXiv 2312.11805",
    formats=(
        CheckpointFormat(
            name="names of Gemma, SigLIP, Whisper and Emu3", parse_config=parse_config, matches=hf("gemini")
        ),
    ),
    variants=(
        Variant(
            name="illustrative",
            parameters=382_903_247,
            config=ILLUSTRATIVE,
            summary="sizes chosen here; of the real ones only Nano-1, 1.8, and Nano-2, 3.25 billion, were published",
        ),
    ),
    recipe=RECIPE,
)
