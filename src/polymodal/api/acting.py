"""One task of a robot's policy: `model.episode("lift the red block")`, then an action for the pictures of each step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polymodal.api.inputs import checked_item
from polymodal.api.media import media_of
from polymodal.api.tensors import answering, require_finite
from polymodal.checkpoints.record import LoadedModel
from polymodal.data.actions import RobotAction
from polymodal.data.media import Image
from polymodal.errors import PromptError

if TYPE_CHECKING:
    from polymodal.api.model import Model


class Episode:
    """What was seen so far is remembered; another task, or the same from its start, is another episode.

    views: which pictures a step takes, in order.  steps: how many there were.
    """

    def __init__(self, model: Model, parts: LoadedModel, instruction: str) -> None:
        """Raises PromptError for an instruction that is empty or too long."""
        assert parts.act is not None
        self._model, self._acting = model, parts.act(instruction)
        self.views, self.steps = self._acting.views, 0

    def step(self, *pictures: Any) -> RobotAction:
        """Paths, pictures or pixels, one for each of `views` -> what the arm does now.

        Raises PromptError for another number of pictures, and for what is no picture.
        """
        if len(pictures) != len(self.views):
            found = f"{len(pictures)} pictures" if len(pictures) != 1 else "1 picture"
            raise PromptError(f"a step takes {len(self.views)} pictures, {' and '.join(self.views)}; found {found}")
        items = [checked_item(media_of(picture)) for picture in pictures]
        for view, item in zip(self.views, items, strict=True):
            if not isinstance(item, Image):
                raise PromptError(f"a step takes pictures; of {view} it found {type(item).__name__.lower()}")
        with answering(self._model):
            values = require_finite(self._acting(items), "actions")
        self.steps += 1
        return self._acting.space.read(values.tolist())
