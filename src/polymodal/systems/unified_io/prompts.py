"""What Unified-IO is asked with: the prompts of its official demonstration, word for word.

    prompt</s> patches of the picture -> answer</s>

Words that are such a prompt stay as they are; others are a question, in lower case as official code asks it; a picture
alone asks for a caption.  One question and one picture: nothing says how a further turn would be written.
"""

from __future__ import annotations

import re
from dataclasses import replace

from polymodal.data.media import Text
from polymodal.data.messages import Message
from polymodal.data.template import Special, Template, Turn
from polymodal.errors import PromptError
from polymodal.pipelines.grounding import Box
from polymodal.systems.unified_io.places import region_text

PROMPTS = {
    "caption": "What does the image describe ?",
    "depth": "What is the depth map of the image ?",
    "normals": "What is the surface normal of the image ?",
    "segment": 'What is the segmentation of " {} " ?',
    "draw": 'What is the complete image? Text: " {} " .',
    "find": 'Which region does the text " {} " describe ?',
    "describe region": 'What does the region " {} " describe ?',
    "classify region": 'What is the category of region " {} " ?',
    "classify": "What is this in the image ?",
    "fill": 'Filling the blank region " {} " ?',
    "pose": 'Find the human joints in the region " {} " .',
    "draw segments": 'What is the complete image? Segmentation color: " {} "',
}
COLOURS = ("white", "red", "lime", "blue", "white", "gray", "fuchsia", "yellow", "aqua", "silver", "maroon", "olive",
           "green", "teal", "navy", "purple")  # fmt: skip
TEMPLATE = Template(
    turns={
        "user": Turn(after=(Special(name="</s>"),)),
        "picture": Turn(),
        "assistant": Turn(after=(Special(name="</s>", loss_mask=True),), loss_mask=True),
    }
)
_PRINTED = re.compile("|".join(re.escape(prompt).replace(r"\{\}", ".*") for prompt in PROMPTS.values()), re.DOTALL)


def prompt(task: str, what: str = "") -> str:
    """The prompt of a task, about some words.  Raises PromptError for an unknown task, and for words where none go."""
    if task not in PROMPTS:
        raise PromptError(f"task {task!r}: expected one of {', '.join(PROMPTS)}")
    if ("{}" in PROMPTS[task]) != bool(what):
        raise PromptError(f"task {task!r}: expected {'some' if '{}' in PROMPTS[task] else 'no'} words, found {what!r}")
    return PROMPTS[task].replace("{}", what)


def about_region(task: str, box: Box, size: tuple[int, int], words: str = "") -> str:
    """The prompt of a task about a box in 0..1 of a picture of `size` (width, height); words: what is to fill it."""
    return prompt(task, " ".join((region_text(box, size), *([words] if words else []))))


def segments(labels: tuple[str, ...]) -> str:
    """The prompt that draws from a map of segments, of which the first is white, the second red ..."""
    if not 0 < len(labels) <= len(COLOURS):
        raise PromptError(f"segments: expected 1 to {len(COLOURS)} names, found {len(labels)}")
    pairs = zip(labels, COLOURS, strict=False)
    return prompt("draw segments", " , ".join(f"{label} : {colour}" for label, colour in pairs).lower())


def is_printed(words: str) -> bool:
    """Whether words are a prompt of the demonstration already."""
    return _PRINTED.fullmatch(words) is not None


def prompted(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """The question, then the picture, then the answer where there is one.  Raises PromptError for more than that."""
    asked = [message for message in messages if message.role == "user"]
    rest = [message for message in messages if message.role != "user"]
    if len(asked) != 1 or messages[0].role != "user" or len(rest) > 1:
        raise PromptError(f"Unified-IO answers one question at a time; found {len(asked)} of them in "
                          f"{len(messages)} messages")  # fmt: skip
    media = asked[0].media
    if len(media) > 1:
        raise PromptError(f"Unified-IO sees one picture; found {len(media)}")
    words = asked[0].text.strip()
    if not words and not media:
        raise PromptError("messages: expected a question or a picture, found neither")
    spoken = words if is_printed(words) else words.lower() if words else PROMPTS["caption"]
    question = replace(asked[0], parts=(Text(spoken),))
    return (question, *([Message(role="picture", parts=media)] if media else []), *rest)
