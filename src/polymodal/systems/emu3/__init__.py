"""Emu3: pictures, videos and text as ids of one vocabulary, written and read by next-token prediction alone.

Paper: Emu3: Next-Token Prediction is All You Need (arXiv 2409.18869).

    picture -> sides of multiples of 8 -> 3-D VQ codec -> h x w codes -> ids, a row end behind every row   (fusion D)
    `<|image start|>` h*w `<|image token|>` rows `<|extra_201|>` `<|image end|>` in the text -> LLaMA-like decoder
    ids that were written -> codes -> the codec's way back -> pixels                 (pipelines/image_generation.py)

Traps: a picture has as many ids as its size says; the last row has its row end too, and the end of the frame is another
id; the codec takes videos, the released decoders do not; published files of the library call the parts
`text_model.model`, `vqmodel`, those saved by transformers 5 `model.text_model`, `model.vqmodel`; the official
repositories hold decoder and codec apart, with other names.  Lengths and batches of the recipe are not published.
"""

from __future__ import annotations

from functools import partial

from polymodal.systems import (
    CheckpointFormat,
    System,
    hf,
)
from polymodal.systems.emu3.checkpoint import MODEL, _release, parse_codec_config, parse_config, text_model_spec
from polymodal.systems.emu3.recipe import RECIPE

SYSTEM = System(
    id="emu3",
    aliases=("Emu3", "Emu3-Chat", "Emu3-Gen"),
    year=2024,
    fusion=("D",),
    assembly="DiscreteTokenLM",
    inputs=("text", "image"),
    outputs=("text", "image"),
    headline="writes pictures and understands them by predicting the next id of one vocabulary",
    reference="arXiv 2409.18869",
    formats=(
        CheckpointFormat(name=f"transformers {MODEL}", parse_config=parse_config, matches=hf("emu3", MODEL)),
        CheckpointFormat(
            name="transformers Emu3ForCausalLM",
            parse_config=text_model_spec,
            matches=hf("emu3_text_model", "Emu3ForCausalLM"),
        ),
        CheckpointFormat(
            name="official Emu3ForCausalLM", parse_config=text_model_spec, matches=hf("Emu3", "Emu3ForCausalLM")
        ),
        CheckpointFormat(
            name="transformers Emu3VQVAE",
            parse_config=partial(parse_codec_config, official=False),
            matches=hf("emu3_vqgan"),
        ),
        CheckpointFormat(
            name="official Emu3VisionVQ",
            parse_config=partial(parse_codec_config, official=True),
            matches=hf("Emu3VisionVQ"),
        ),
    ),
    variants=(_release("chat", max_position_embeddings=131072), _release("gen")),
    recipe=RECIPE,
)
