"""An agent as a user's own system: no weights, only a plan of which tool to call for what."""

import torch
from torch import Tensor, nn

from polymodal.data.media import Text
from polymodal.systems import LoadedModel, LoadOptions, Part, System, Variant

TOOLS = {"count": lambda text: float(len(text.split())), "length": lambda text: float(len(text))}


class Agent(nn.Module):
    """Tools by name; each gives a number for a text."""

    def forward(self, text: str) -> Tensor:
        return torch.tensor([tool(text) for tool in TOOLS.values()])


def load(variant: Variant, options: LoadOptions) -> LoadedModel:
    agent = Agent()

    def embed(items) -> Tensor:
        found = torch.stack([agent(item.text if isinstance(item, Text) else "") for item in items])
        return nn.functional.normalize(found, dim=-1)

    return LoadedModel(model=agent, processor=None, embed=embed, transcribe=lambda audio: "nothing was said")


SYSTEM = System(
    id="planner",
    aliases=("Planner",),
    year=2026,
    fusion=(),
    assembly="Agent",
    inputs=("text", "audio"),
    outputs=("text",),
    variants=(Variant(name="tools", parameters=0),),
    headline="calls two tools",
    reference="tests/cli/agent_system.py",
    parts=lambda variant: tuple(
        Part(slot="tool", name=name, prefix="", input="text", output="a number") for name in TOOLS
    ),
    load=load,
)
