"""POST /v1/grounding: where in the pictures the things are that an answer is about, and the answer in plain words.

{"model", "answer", "images": [{"type": "image_url", ...}]}
    -> {"text", "things": [{"label", "box": [left, top, right, bottom] in 0..1 of its picture, "score", "picture"}]}
       and where the answer tells joints, "poses": [{"joints": [{"name", "point": [x, y] in 0..1, "seen"}], "whole",
       "picture"}]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from polymodal.data.media import Image
from polymodal.serve.chat import fetched, read_messages
from polymodal.serve.errors import Refused
from polymodal.serve.models import ServedModel, find
from polymodal.serve.schemas import Grounded
from polymodal.serve.settings import Settings


def add_grounding(app: FastAPI, models: Mapping[str, ServedModel], settings: Settings) -> None:
    """The route."""

    @app.post("/v1/grounding")
    async def ground(body: Grounded) -> dict[str, Any]:
        """Boxes of what an answer is about."""
        served = find(models, body.model)
        served.model.require("ground")
        if len(body.answer) > (most := settings.requests.text):
            raise Refused(413, f"answer: {len(body.answer):,} characters, the limit is {most:,}", param="answer")
        (message,) = read_messages(await fetched([{"role": "user", "content": body.images}], settings), settings)
        if len(message.media) != len(message.parts) or not all(isinstance(part, Image) for part in message.parts):
            raise Refused(400, "images: expected pictures alone, as image_url", param="images")
        found = await served.alone(served.model.ground, body.answer, *message.parts)
        things = [
            {
                "label": thing.label,
                "box": [round(min(max(edge, 0.0), 1.0), 4) for edge in thing.box],
                "score": None if thing.score is None else round(thing.score, 4),
                "picture": thing.picture,
            }
            for thing in found.things
        ]
        poses = [
            {
                "joints": [{"name": joint.name, "point": [round(each, 4) for each in joint.point], "seen": joint.seen}
                           for joint in pose.joints],
                "whole": pose.whole,
                "picture": pose.picture,
            }
            for pose in found.poses
        ]  # fmt: skip
        told = {"poses": poses} if poses else {}
        return {"object": "grounding", "model": served.name, "text": found.text, "things": things, **told}
