"""`model.turn(...)`: some modalities of a thing into others, by a model that reads and writes them by name (4M)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from polymodal.api.inputs import checked_item
from polymodal.api.media import as_media
from polymodal.api.tensors import answering
from polymodal.data.media import Image, Text
from polymodal.errors import ConfigError, PromptError
from polymodal.generation.masked_modalities import Written
from polymodal.models.feature_codec import FeatureCodec
from polymodal.pipelines.image_generation import check_steps
from polymodal.pipelines.modality_turning import Turned

if TYPE_CHECKING:
    from polymodal.api.model import Model


def turn(
    self: Model,
    given: Any,
    into: Sequence[str | Written],
    *,
    codecs: Mapping[str, Model] | None = None,
    seed: int = 0,
    steps: int | None = None,
) -> dict[str, Turned]:
    """`turn(pm.image("photo.jpg"), ["caption", "tok_depth@224"])["caption"].text`.

    given: a picture, a text (a caption), or several by modality: {"rgb@224": picture, "det": words, "tok_clip@224":
    ids}.  into: modalities in the order in which they are written, each from all before it, as the authors'
    demonstration writes them; or `Written` with options.
    codecs: modality -> a loaded codec; what is written of a grid is then there as values.
    steps: in which codecs draw that write by diffusion (pixels, depth, normals, edges); None: their usual number.
    Raises ConfigError for a model that cannot, PromptError for what does not fit its modalities.
    """
    self.require("turn")
    turner = self._parts.turn
    assert turner is not None
    check_steps(steps)
    built = {name: _codec(name, each) for name, each in (codecs or {}).items()}
    if steps is not None and all(each.diffusion is None for each in built.values()):
        raise ConfigError(f"steps: none of the codecs draws by diffusion, so there are no {steps} steps to take")
    items = given if isinstance(given, Mapping) else {_modality(given, turner.reads): given}
    known = {name: _item(item) for name, item in items.items()}
    with answering(self):
        return turner(known, into, codecs=built, seed=seed, steps=steps)


def _codec(name: str, model: Model) -> FeatureCodec:
    if not isinstance(model.module, FeatureCodec):
        raise ConfigError(f"codec of {name}: {model.name} is no codec of pictures or features")
    return model.module


def _item(item: Any) -> Any:
    if isinstance(item, Tensor):
        return item
    found = item if isinstance(item, str) else as_media(item)
    return checked_item(Text(found) if isinstance(found, str) else found) if found is not None else item


def _modality(item: Any, reads: Sequence[str]) -> str:
    """What a single thing is given as.  Raises PromptError where the model reads no such modality."""
    found = as_media(item)
    if isinstance(item, str) or isinstance(found, Text):
        name = "caption" if "caption" in reads else None
    else:
        name = next((each for each in reads if each.startswith("rgb@")), None) if isinstance(found, Image) else None
    if name is None:
        raise PromptError(f"turn: say which modality it is, as {{'caption': ...}}; the model reads {', '.join(reads)}")
    return name
