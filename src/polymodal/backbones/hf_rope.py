"""The rotary settings of a published `config.json`, in both spellings of the transformers library.

    rope_theta + rope_scaling {"type" | "rope_type", ...}       up to 4.x
    rope_parameters {"rope_type", "rope_theta", ...}            from 5.0

Trap: a scaling kind that is not known here is refused; reading it as no scaling would give a model that answers
well on short texts only.
"""

from collections.abc import Mapping
from typing import Any

from polymodal.errors import ConfigError
from polymodal.nn.rope import LinearScaling, Llama3Scaling, NTKScaling, RopeScaling, YarnScaling


def rope_of(config: Mapping[str, Any], theta: float = 10000.0) -> tuple[float, RopeScaling | None]:
    """(theta, scaling) of a published config; `theta` is the family's default.  Raises ConfigError."""
    settings = dict(config.get("rope_scaling") or {})
    settings.update(config.get("rope_parameters") or {})
    theta = float(settings.get("rope_theta") or config.get("rope_theta") or theta)
    kind = settings.get("rope_type") or settings.get("type") or "default"
    trained = int(settings.get("original_max_position_embeddings") or config.get("max_position_embeddings") or 0)
    if kind == "default" or kind == "mrope":
        return theta, None
    if kind == "linear":
        return theta, LinearScaling(factor=settings["factor"])
    if kind == "dynamic":
        return theta, NTKScaling(factor=settings["factor"], trained_length=trained)
    if kind == "yarn":
        return theta, _yarn(settings, trained)
    if kind == "llama3":
        return theta, Llama3Scaling(
            factor=settings["factor"],
            trained_length=trained,
            low_frequency_factor=settings["low_freq_factor"],
            high_frequency_factor=settings["high_freq_factor"],
        )
    raise ConfigError(f"rope scaling {kind!r} is not supported; expected default, linear, dynamic, yarn or llama3")


def _yarn(settings: Mapping[str, Any], trained: int) -> YarnScaling:
    if settings.get("mscale") or settings.get("mscale_all_dim"):
        raise ConfigError("yarn with mscale (DeepSeek) is not supported; expected attention_factor or nothing")
    return YarnScaling(
        factor=settings["factor"],
        trained_length=trained,
        beta_fast=settings.get("beta_fast") or 32.0,
        beta_slow=settings.get("beta_slow") or 1.0,
        attention_factor=settings.get("attention_factor"),
        truncate=settings.get("truncate", True),
    )
