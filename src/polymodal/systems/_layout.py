"""The former place of `layouts/record.py`."""

from polymodal.layouts.record import Files, Layout, Opened, Repository, hf

__all__ = ["Files", "Layout", "Opened", "Repository", "hf"]
