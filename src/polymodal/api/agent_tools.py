"""What loaded models can do as an agent's tools: by their `can`, each a function of its own task.

tools_of(pm.load("mini")) -> describe, answer, detect, hear, classify
"""

from __future__ import annotations

import io
import shutil
import subprocess
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from polymodal.agents.tools import Box, Tool
from polymodal.data.media import Audio, Image
from polymodal.errors import MediaError

if TYPE_CHECKING:
    from polymodal.api.model import Model
    from polymodal.api.voice import Voice

READING = 120  # seconds that reading a picture may take
DESCRIBE, ALL = "Describe this picture in one sentence.", "What all is in this picture?"


def tools_of(model: Model) -> tuple[Tool, ...]:
    """Its tools, named with its id: "mini:135m describe"."""
    return tuple(_tools(model))


def _tools(model: Model) -> Iterator[Tool]:
    can, sees = model.can, "image" in model.system.inputs

    def tool(name: str, task: str, inputs: dict[str, str], output: str, run: Any, about: str) -> Tool:
        return Tool(name=f"{model.name} {name}", task=task, inputs=inputs, output=output, run=run, description=about,
                    model=model.name)  # fmt: skip

    picture, text, labels = {"image": "image"}, {"text": "text"}, {"labels": "texts"}
    if "chat" in can and sees:
        yield tool("describe", "image-to-text", picture, "text", lambda image: said(model, image, DESCRIBE),
                   "says what a picture shows")  # fmt: skip
        yield tool("answer", "visual-question-answering", picture | text, "text",
                   lambda image, text: said(model, image, text), "answers a question about a picture")  # fmt: skip
    if "ground" in can and "chat" in can:
        yield tool("detect", "object-detection", picture, "boxes", lambda image: things(model, image),
                   "says where things are in a picture")  # fmt: skip
    if "transcribe" in can:
        yield tool("hear", "automatic-speech-recognition", {"audio": "audio"}, "text",
                   lambda audio: model.transcribe(audio).text.strip(), "writes down what is said")  # fmt: skip
    if "classify" in can and sees:
        yield tool("classify", "zero-shot-image-classification", picture | labels, "labels",
                   lambda image, labels: shares(model, image, labels), "which of several texts fits")  # fmt: skip
    if "draw" in can and model.paints:
        yield tool("draw", "text-to-image", text, "image",
                   lambda text: Image(model.draw(text).media["image"][0]), "draws what a text says")  # fmt: skip


def said(model: Model, image: Image, question: str) -> str:
    return model.chat(image, question, max_tokens=64).text


def things(model: Model, image: Image) -> tuple[Box, ...]:
    """What the model says is there, with its boxes."""
    found = model.ground(said(model, image, ALL), image).things
    boxes = [thing.as_dict(image.picture.size) for thing in found]
    return tuple(Box(label=box["label"], score=box["score"], left=left, top=top, right=right, bottom=bottom)
                 for box in boxes for left, top, right, bottom in [box["box"]])  # fmt: skip


def shares(model: Model, image: Image, labels: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    return tuple((each.label, float(each.probability)) for each in model.classify(image, list(labels)))


def reading_tools() -> tuple[Tool, ...]:
    """Tesseract as a tool, where its program is installed."""
    program = shutil.which("tesseract")
    if program is None:
        return ()

    def read(image: Image) -> str:
        data = io.BytesIO()
        image.picture.save(data, "PNG")
        command = [program, "stdin", "stdout"]
        done = subprocess.run(command, input=data.getvalue(), capture_output=True, timeout=READING)
        if done.returncode:
            raise MediaError(f"{done.stderr.decode(errors='replace').strip()[:200]}")
        return done.stdout.decode(errors="replace").strip()

    picture = {"image": "image"}
    return (Tool(name="tesseract", task="optical-character-recognition", inputs=picture, output="text", run=read,
                 description="the words that are written in a picture", model="Tesseract"),)  # fmt: skip


def voice_tool(voice: Voice) -> Tool:
    """Speech of a text."""

    def say(text: str) -> Audio:
        speech = voice.say(text)
        return Audio((np.asarray(speech.samples), speech.rate))

    return Tool(name=f"{voice.name} say", task="text-to-speech", inputs={"text": "text"}, output="audio", run=say,
                description="says a text aloud", model=f"Kokoro {voice.name}")  # fmt: skip
