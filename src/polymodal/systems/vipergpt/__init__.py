"""ViperGPT: a language model writes a program over an API of vision models; the program's value is the answer.

Paper: ViperGPT (arXiv 2303.08128).  Code: cvlab-columbia/viper (CC BY-NC 4.0), read at 09fe346.

    request -> prompt with the API -> planner -> `def execute_command(image)` -> restricted interpreter -> answer
                                                      ImagePatch.find, simple_query, ... -> tools

The official code runs programs with Python's `exec`; here agents/interpreter walks over their trees, with no name of
Python in reach.  Traps: y grows upward; crops are 10 pixels larger on each side; a planner ends its program at an empty
line.
"""

from __future__ import annotations

from polymodal.systems import System
from polymodal.systems._agent import TOOLS, boxes, loads
from polymodal.systems.vipergpt.agent import OFFERS, ViperAgent

SYSTEM = System(
    id="vipergpt",
    aliases=("ViperGPT", "Viper-GPT"),
    year=2023,
    fusion=("agent",),
    assembly="Agent",
    inputs=("text", "image", "video"),
    outputs=("text", "image"),
    headline="a planner's program over vision models, run in an interpreter of ours, answers about a picture or video",
    reference="arXiv 2303.08128",
    variants=(TOOLS,),
    parts=boxes(OFFERS),
    load=loads(ViperAgent),
)
