"""Visual ChatGPT: a language model that talks about, draws and changes pictures by tools, in a loop of thoughts and
actions.

Paper: Visual ChatGPT (arXiv 2303.04671).  Code: microsoft/TaskMatrix, visual_chatgpt.py (MIT), read at 4b7664f.

    picture -> 512, multiples of 64 -> described -> history;  request -> prompt -> planner -> action -> tool ...
                                                                                        -> "AI: ..." -> answer

Traps: a picture is only its file name, image/{8 hex}.png; the name of a made picture tells what made it and from which;
a tool's input is one string, split at its first comma; the history is cut to its last 500 words, by whole paragraphs.
"""

from __future__ import annotations

from polymodal.systems import System
from polymodal.systems._agent import TOOLS, boxes, loads
from polymodal.systems.visual_chatgpt.agent import OFFERS, begin

SYSTEM = System(
    id="visual-chatgpt",
    aliases=("Visual ChatGPT", "Visual-ChatGPT", "TaskMatrix"),
    year=2023,
    fusion=("agent",),
    assembly="Agent",
    inputs=("text", "image"),
    outputs=("text", "image"),
    headline="talks about pictures, draws and changes them by calling tools on file names, step by step",
    reference="arXiv 2303.04671",
    variants=(TOOLS,),
    parts=boxes(OFFERS),
    load=loads(begin),
)
