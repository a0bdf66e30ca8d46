"""What MM-REACT's experts write: descriptions, things with their places, tags and words of a picture, as lines of text.

The words are the official ones (microsoft/MM-REACT, langchain/utilities/imun.py, MIT), since the planner's examples use
them. Traps: a place is the middle of a box across and its UPPER border in height, in whole hundredths from the bottom
left corner.
"""

from __future__ import annotations

from collections.abc import Sequence

from polymodal.agents.tools import Box, Toolbox, ToolError
from polymodal.data.media import Image


def place(box: Box, size: tuple[int, int]) -> str:
    """ "dog 11 50"."""
    across = box.left + (box.right - box.left) // 2
    return f"{box.label} {100 * across // size[0]} {100 * (size[1] - box.top) // size[1]}"


def told(name: str, description: str, boxes: Sequence[Box], words: Sequence[str], size: tuple[int, int]) -> str:
    """Everything that experts found in a picture, as the planner reads it."""
    tags = tuple(dict.fromkeys(box.label for box in boxes))
    parts = [
        part
        for part, there in ((" objects and their descriptions", boxes), (" object tags", tags), (" text", words))
        if there
    ]
    text = f"{name}\n" + (f"Image description is: {description}.\n" if description else "")
    text += f"\nThis image contains{','.join(parts)}" if parts else ""
    text += "\n"
    if not parts and not description:
        return text + "This image is too blurry"
    if boxes:
        places = "\n".join(place(box, size) for box in boxes)
        text += f"\nList of object descriptions, and their locations in this image:\n{places}\n"
        text += "\nList of object tags seen in this image:\n" + "\n".join(tags) + "\n"
    if words:
        text += "\nList of OCR texts (words) seen in this image:\n" + "\n".join(words) + "\n"
    return text


def understand(box: Toolbox, name: str, image: Image) -> str:
    """Image Understanding: a description and the things that are there.  Raises ToolError where there is no tool for
    it."""
    describe, detect = box.first("image-to-text"), box.first("object-detection")
    if describe is None and detect is None:
        raise ToolError("Image Understanding needs a tool for image-to-text or object-detection")
    said = "" if describe is None else str(describe.call({"image": image})).strip().rstrip(".")
    boxes = () if detect is None else detect.call({"image": image})
    return told(name, said, boxes, (), image.picture.size)


def read_words(box: Toolbox, name: str, image: Image) -> str:
    """OCR Understanding."""
    tool = box.first("optical-character-recognition")
    if tool is None:
        raise ToolError("OCR Understanding needs a tool for optical-character-recognition")
    words = [line for line in str(tool.call({"image": image})).splitlines() if line.strip()]
    if not words:
        return f"{name}\n\nThis image is too blurry for OCR text extraction"
    return told(name, "", (), words, image.picture.size)
