"""AudioPaLM: PaLM's decoder whose words are text and audio tokens, so that it recognises, translates and speaks.

Paper: AudioPaLM (arXiv 2306.12925).  Neither code nor weights were released.

    recording -> units of an encoder of speech, 25 a second, 1024 of them       (checkpoints/unit_speech.py)
    "[S2ST French English] " and units -> PaLM 8B, embedding of (text + audio) rows, head the same    (fusion D)
    -> words, or units -> a voice;  "[ASR AST S2ST French English] " -> transcript, translation, units

Traps: rows of the audio tokens begin as zeros; a request begins with its task in brackets, which is plain text; tokens
are not merged, each stands for 40 ms.
From the paper: one table for both kinds of tokens, tags, 25 Hz and 1024, loss on answers alone.  Not published: USM,
its clusters, PaLM-2's sizes, SoundStream; ears and voice of a folder stand for them, see the evidence.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, System, Variant, hf
from polymodal.systems.audiopalm.checkpoint import parse_config
from polymodal.systems.audiopalm.recipe import RECIPE

SYSTEM = System(
    id="audiopalm",
    aliases=("AudioPaLM", "AudioPaLM-2"),
    year=2023,
    fusion=("D",),
    assembly="MultimodalLM",
    inputs=("text", "audio"),
    outputs=("text", "audio"),
    headline="recognises, translates and speaks in one decoder over text and audio tokens",
    reference="paper: AudioPaLM, arXiv 2306.12925",
    formats=(CheckpointFormat(name="names of Cohere", parse_config=parse_config, matches=hf("audiopalm")),),
    variants=(Variant(name="8b", parameters=8_636_207_104, config={"model_type": "audiopalm", "text_config": {}}),),
    recipe=RECIPE,
)
