"""What tools are for, and what goes in and comes out: the tasks of the hub, and a few that it has no name for.

A tool of one of these tasks has these inputs, in this order, and this output; a tool of another task has what it likes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """inputs: argument -> kind."""

    inputs: Mapping[str, str]
    output: str

    @property
    def signature(self) -> str:
        return f"({', '.join(f'{name}: {kind}' for name, kind in self.inputs.items())}) -> {self.output}"


def _task(given: str, output: str) -> Task:
    """given: "image text": arguments named as their kinds."""
    return Task({name: "texts" if name == "labels" else name for name in given.split()}, output)


CONTROLS = ("canny", "hed", "mlsd", "normal", "openpose", "scribble")
TEXT_TASKS = ("summarization", "translation", "conversational", "text-generation", "text2text-generation")
"""What HuggingGPT's language model does itself."""

TASKS: Mapping[str, Task] = {
    **dict.fromkeys(TEXT_TASKS, _task("text", "text")),
    "question-answering": _task("text", "text"),
    "image-to-text": _task("image", "text"),
    "visual-question-answering": _task("image text", "text"),
    "document-question-answering": _task("image text", "text"),
    "optical-character-recognition": _task("image", "text"),
    "image-classification": _task("image", "labels"),
    "zero-shot-image-classification": _task("image labels", "labels"),
    "image-text-matching": _task("image text", "number"),
    "object-detection": _task("image", "boxes"),
    "zero-shot-object-detection": _task("image text", "boxes"),
    "image-segmentation": _task("image", "image"),
    "depth-estimation": _task("image", "image"),
    "image-to-image": _task("image text", "image"),
    "text-to-image": _task("text", "image"),
    "text-to-video": _task("text", "video"),
    **{f"{name}-control": _task("image", "image") for name in CONTROLS},
    **{f"{name}-text-to-image": _task("image text", "image") for name in (*CONTROLS, "depth", "seg")},
    "text-to-speech": _task("text", "audio"),
    "text-to-audio": _task("text", "audio"),
    "automatic-speech-recognition": _task("audio", "text"),
    "audio-captioning": _task("audio", "text"),
    "audio-classification": _task("audio", "labels"),
    "audio-to-audio": _task("audio", "audio"),
    "image-to-audio": _task("image", "audio"),
}
