"""A language model whose answer says in words what shall be made: ModaVerse (arXiv 2401.06395).

    "Modality: [IMAGE] Prompt: a cat ###"  ->  the caller's text-to-image pipeline, asked for "a cat"

Unlike signal tokens, the words need no output projector: frozen text-to-X models read them.
Trap: every flag in an answer counts, wherever it stands; all of them get the one prompt.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from polymodal.errors import ConfigError
from polymodal.generators.diffusion import Pipeline, ask_pipeline
from polymodal.models.multimodal_lm import MultimodalLM

FLAGS = {"[TEXT]": "text", "[IMAGE]": "image", "[AUDIO]": "audio", "[VIDEO]": "video"}
PROMPT = re.compile(r"\bPrompt:\s*(.+?)(?:\s*###|$)", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class MetaResponse:
    """What an answer asks for.  modalities: "text", "image", "audio" or "video", the one named most often first."""

    modalities: tuple[str, ...]
    prompt: str


def read_meta_response(answer: str) -> MetaResponse:
    """The published parser; an answer without a flag is text, and one without "Prompt:" is a prompt as a whole."""
    named = [flag for flag in sorted(FLAGS, key=answer.count, reverse=True) if flag in answer]
    found = PROMPT.search(answer)
    prompt = answer.partition("###")[0] if found is None else found[1]
    return MetaResponse(modalities=tuple(FLAGS[flag] for flag in named) or ("text",), prompt=prompt.strip())


class MetaResponseLM(MultimodalLM):
    """A MultimodalLM that answers with meta-responses."""

    @torch.inference_mode()
    def render_answer(
        self, answer: str, pipelines: Mapping[str, Pipeline], changes: Mapping[str, Any] | None = None
    ) -> tuple[str, dict[str, list[Any]]]:
        """The words of an answer, and by modality what the caller's pipelines make of them.

        changes: arguments that override the published settings of all pipelines.  Raises ConfigError where the answer
        asks for a modality without a pipeline, before anything is made.
        """
        asked = read_meta_response(answer)
        media = [name for name in asked.modalities if name != "text"]
        if missing := [name for name in media if name not in pipelines]:
            raise ConfigError(f"the answer asks for {missing[0]}; pass a pipeline for it (found {sorted(pipelines)})")
        return asked.prompt, {name: [ask_pipeline(pipelines[name], name, asked.prompt, changes)] for name in media}
