"""AudioGPT: a language model that works with speech, sound and music by tools, in Visual ChatGPT's loop.

Paper: AudioGPT (arXiv 2304.12995).  Code: AIGC-Audio/AudioGPT, audio-chatgpt.py (its LICENSE file is empty), read at
a674543.

    recording -> described -> history;  request -> prompt -> planner -> action -> tool -> observation ... -> "AI:
    ..." -> answer

Traps: recordings are only their names, audio/{8 hex}.wav; tools are called by the official spelling ("Sythesize
Binaural ...").
"""

from __future__ import annotations

from polymodal.systems import System
from polymodal.systems._agent import TOOLS, boxes, loads
from polymodal.systems.audiogpt.agent import OFFERS, begin

SYSTEM = System(
    id="audiogpt",
    aliases=("AudioGPT", "Audio-GPT"),
    year=2023,
    fusion=("agent",),
    assembly="Agent",
    inputs=("text", "audio", "image"),
    outputs=("text", "audio", "image", "video"),
    headline="writes down, makes and describes sound by calling tools on file names, step by step",
    reference="arXiv 2304.12995",
    variants=(TOOLS,),
    parts=boxes(OFFERS),
    load=loads(begin),
)
