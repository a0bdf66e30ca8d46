"""An agent where a model stands: an `nn.Module` without parameters that begins conversations."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from polymodal.agents.record import Agent, Setup


class AgentModule(nn.Module):
    """begin(setup) -> a conversation with its planner and tools."""

    def __init__(self, begin: Callable[[Setup], Agent]) -> None:
        super().__init__()
        self.begin = begin
