"""MM-REACT: a language model that calls for experts by a watchword and reads what they see as lines of text.

Paper: MM-REACT (arXiv 2303.11381).  Code: microsoft/MM-REACT, a fork of langchain (MIT), read at b8f29af.

    request -> prompts -> planner: thoughts, "Assistant, what objects do you see in this image? /image/a.png"
            -> keywords choose an expert -> "Image description is: ..." -> planner ... -> "To summerize, ..." -> answer

Traps: "To summerize" is spelled so; without a watchword the whole text is the answer; a picture's name stands behind
the request and keywords before it; experts were services of Azure, of which local tools take the place: faces,
celebrities and the search of the web have none.
"""

from __future__ import annotations

from polymodal.systems import System
from polymodal.systems._agent import TOOLS, boxes, loads
from polymodal.systems.mm_react.agent import OFFERS, MMReactAgent

SYSTEM = System(
    id="mm-react",
    aliases=("MM-REACT", "MM-ReAct"),
    year=2023,
    fusion=("agent",),
    assembly="Agent",
    inputs=("text", "image"),
    outputs=("text", "image"),
    headline="thinks in numbered lines, calls vision experts by a watchword and answers from what they write",
    reference="arXiv 2303.11381",
    variants=(TOOLS,),
    parts=boxes(OFFERS),
    load=loads(MMReactAgent),
)
