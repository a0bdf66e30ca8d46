"""What a program can end with beside its value; both name the line."""

from __future__ import annotations

from polymodal.agents.tools import ToolError


class ProgramError(ToolError):
    """A program that is refused before it runs, or does something that it may not or cannot."""


class LimitError(ProgramError):
    """A program that takes too many steps, too long or too much memory."""
