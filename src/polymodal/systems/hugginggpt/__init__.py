"""HuggingGPT: a language model plans tasks as a graph, chooses a model for each, and answers from their results.

Paper: HuggingGPT (arXiv 2303.17580).  Code: microsoft/JARVIS, folder hugginggpt (MIT), read at c62e0fa.

    request -> planner: JSON tasks -> graph, checked -> planner chooses among tools -> tools, in parallel -> planner:
    answer

Traps: ids that a task waits for are read off `<GENERATED>-id` in its arguments, not off its "dep"; a comma-joined
placeholder becomes several tasks; plans without a task for a tool are answered by the language model alone.
"""

from __future__ import annotations

from polymodal.systems import System
from polymodal.systems._agent import TOOLS, boxes, loads
from polymodal.systems.hugginggpt.agent import OFFERS, HuggingAgent

SYSTEM = System(
    id="hugginggpt",
    aliases=("HuggingGPT", "Hugging-GPT", "JARVIS"),
    year=2023,
    fusion=("agent",),
    assembly="Agent",
    inputs=("text", "image", "audio"),
    outputs=("text", "image", "audio", "video"),
    headline="plans a request as a graph of tasks, gives each to a model, runs what is ready at once and answers",
    reference="arXiv 2303.17580",
    variants=(TOOLS,),
    parts=boxes(OFFERS),
    load=loads(HuggingAgent),
)
