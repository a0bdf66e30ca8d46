"""Qwen-Audio: one sound encoder and a language model for thirty tasks of speech, sound and music, told apart by tags.

Paper: Qwen-Audio (arXiv 2311.07919).

    sound, at most 30 s -> log-mel -> Whisper large-v2's encoder [S, 1280] -> mean of neighbours -> norm [S / 2, 1280]
          -> linear, a learned vector at each end [S / 2 + 2, 4096] -> from `<audio>` to `</audio>`      (fusion type C)
    Qwen-7B, the first; 25 features a second

Traps: the vectors of `<audio>` and `</audio>` are the encoder's, not those of the vocabulary; the README's prompt
begins with <|startoftranscription|>, which is no token (that is <|startoftranscript|>) and is read as plain text.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, ConfigMatch, System
from polymodal.systems.qwen_audio.checkpoint import parse_config, variant
from polymodal.systems.qwen_audio.recipe import RECIPE

SYSTEM = System(
    id="qwen-audio",
    aliases=("Qwen-Audio", "Qwen-Audio-Chat"),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "audio"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="Qwen QWenLMHeadModel with sound",
            matches=ConfigMatch(score=lambda config: "audio" in config, model_types=("qwen",)),
            parse_config=parse_config,
        ),
    ),
    variants=(variant("chat", "Qwen-Audio-Chat"), variant("base", "Qwen-Audio")),
    headline="one sound encoder for speech, sound and music; tags say which task, times are tokens",
    reference="arXiv 2311.07919",
    recipe=RECIPE,
)
