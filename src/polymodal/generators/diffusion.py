"""Images, videos and audio from a diffusion pipeline that gets prompt embeddings instead of a prompt.

    condition [1, Q, E] (from an output projector, replaces the text encoder's output) -> pipeline -> media

The pipeline is any object with the call signature of diffusers (`prompt_embeds`, `guidance_scale`,
`num_inference_steps`): StableDiffusionPipeline, TextToVideoSDPipeline, AudioLDMPipeline.  The caller creates it
(`pip install ".[generate]"` installs diffusers; docs/draw.md).
Traps: guidance needs the empty prompt, which the pipeline encodes itself; AudioLDM takes one vector [1, E].
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from polymodal.errors import ConfigError

Pipeline = Callable[..., Any]


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings:
    """output_field: of the pipeline's output.  condition: the argument that takes it.  pooled: it is one vector.

    extra: further arguments.
    """

    output_field: str
    condition: str = "prompt_embeds"
    guidance: float = 7.5
    steps: int = 40
    pooled: bool = False
    extra: tuple[tuple[str, Any], ...] = field(default=())


IMAGE = DiffusionSettings(output_field="images")
VIDEO = DiffusionSettings(output_field="frames", extra=(("height", 320), ("width", 576), ("num_frames", 16)))
AUDIO = DiffusionSettings(output_field="audios", pooled=True, extra=(("audio_length_in_s", 5.0),))

SETTINGS = {"image": IMAGE, "video": VIDEO, "audio": AUDIO}
"""The settings of NExT-GPT's published demo for Stable Diffusion, zeroscope and AudioLDM."""


PROMPTED = {
    "image": DiffusionSettings(output_field="images"),
    "video": DiffusionSettings(output_field="frames", extra=(("num_inference_steps", 25),)),
    "audio": DiffusionSettings(output_field="audios", extra=(("num_inference_steps", 10), ("audio_length_in_s", 5.0))),
}
"""What ModaVerse's published code gives Stable Diffusion, text-to-video-ms-1.7b and AudioLDM beside a prompt."""


def ask_pipeline(pipeline: Pipeline, modality: str, prompt: str, changes: Mapping[str, Any] | None = None) -> Any:
    """Output of the pipeline for a prompt in words; changes: arguments beside the published ones, or in their place."""
    settings = PROMPTED[modality]
    return getattr(pipeline(prompt=prompt, **{**dict(settings.extra), **(changes or {})}), settings.output_field)


def run_pipeline(pipeline: Pipeline, condition: Tensor, settings: DiffusionSettings, **overrides: Any) -> Any:
    """Output of the pipeline for one condition `[Q, E]` or `[1, Q, E]`; overrides: arguments that replace `settings`.

    Raises ConfigError for a condition of another shape.
    """
    embeds = condition if condition.dim() == 3 else condition[None]
    if embeds.dim() != 3 or len(embeds) != 1 or (settings.pooled and embeds.shape[1] != 1):
        expected = "[1, 1, E]" if settings.pooled else "[1, Q, E]"
        raise ConfigError(f"diffusion: expected a condition {expected}, found {list(condition.shape)}")
    arguments = {
        settings.condition: embeds[:, 0] if settings.pooled else embeds,
        "guidance_scale": settings.guidance,
        "num_inference_steps": settings.steps,
        **dict(settings.extra),
        **overrides,
    }
    return getattr(pipeline(**arguments), settings.output_field)
