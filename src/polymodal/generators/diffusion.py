"""Pictures, videos and sounds by a diffusion pipeline that is told a condition instead of a prompt.

    condition [1, Q, E] (of an output projector, in place of the text encoder's output) -> pipeline -> media

The pipeline is any object called as diffusers' are, with `prompt_embeds`, `guidance_scale` and `num_inference_steps`:
StableDiffusionPipeline, TextToVideoSDPipeline, AudioLDMPipeline.  It is made and owned by the caller
(`pip install ".[generate]"` brings diffusers; docs/draw.md).
Traps: guidance needs the empty prompt, which the pipeline encodes itself; AudioLDM takes one vector [1, E].
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from polymodal.errors import ConfigError

Pipeline = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings:
    """gives: the field of the pipeline's output.  flat: one vector instead of a sequence.  more: further arguments."""

    gives: str
    guidance: float = 7.5
    steps: int = 40
    flat: bool = False
    more: tuple[tuple[str, Any], ...] = field(default=())


PICTURE = DiffusionSettings(gives="images")
VIDEO = DiffusionSettings(gives="frames", more=(("height", 320), ("width", 576), ("num_frames", 16)))
SOUND = DiffusionSettings(gives="audios", flat=True, more=(("audio_length_in_s", 5.0),))

SETTINGS = {"image": PICTURE, "video": VIDEO, "audio": SOUND}
"""As NExT-GPT's published demo calls Stable Diffusion, zeroscope and AudioLDM."""


def draw(pipeline: Pipeline, condition: Tensor, settings: DiffusionSettings, **changes: Any) -> Any:
    """What the pipeline makes of one condition `[Q, E]` or `[1, Q, E]`; changes: arguments of the pipeline to replace.

    Raises ConfigError for a condition of another shape.
    """
    given = condition if condition.dim() == 3 else condition[None]
    if given.dim() != 3 or len(given) != 1 or (settings.flat and given.shape[1] != 1):
        wanted = "[1, 1, E]" if settings.flat else "[1, Q, E]"
        raise ConfigError(f"diffusion: expected a condition {wanted}, found {list(condition.shape)}")
    arguments = {
        "prompt_embeds": given[:, 0] if settings.flat else given,
        "guidance_scale": settings.guidance,
        "num_inference_steps": settings.steps,
        **dict(settings.more),
        **changes,
    }
    return getattr(pipeline(**arguments), settings.gives)
