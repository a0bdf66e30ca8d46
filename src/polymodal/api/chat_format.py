"""Whose format a model's conversations are written in: the folder's own, or that of its system.

A loaded model knows it; of a folder it is found out without its weights, by what loading makes of its small files.
"""

from __future__ import annotations

from pathlib import Path

from polymodal.api.load import look_at
from polymodal.api.published import assembled, files_at, recognise
from polymodal.checkpoints.record import LoadedModel
from polymodal.data.chat_template import ChatTemplate
from polymodal.errors import PolymodalError
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.systems import System
from polymodal.weights.build import build_empty


def chat_format(model: str | Path, *, system: str | None = None) -> str | None:
    """`Model.chat_format` of a published folder, without reading its weights; None where that cannot be told so: of a
    name of the catalogue, of a folder whose tokenizer is damaged.

    system: what to read a folder as.  Raises as `pm.look` does.
    """
    looked = look_at(model, system)
    if looked.path is None:
        return None
    found = recognise(looked.path, system, looked.name)
    spec = found.format.model_spec(found.config)
    try:
        parts = assembled(found.files or files_at(looked.path), spec, build_empty(spec.build))
    except (PolymodalError, NotImplementedError, RuntimeError):  # loading would raise this, or looks into weights
        return None
    return format_of(found.system, parts)


def format_of(system: System, parts: LoadedModel) -> str:
    """A file of the folder, as "chat_template.jinja", or the id of the system; "" for what holds no conversations."""
    if parts.processor is None or not isinstance(parts.model, MultimodalLM):
        return ""
    template = parts.processor.template
    return template.source.file if isinstance(template, ChatTemplate) else system.id
