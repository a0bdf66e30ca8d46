"""The rotary settings of a published `config.json`, in both spellings of the transformers library.

    rope_theta + rope_scaling {"type" | "rope_type", ...}       up to 4.x
    rope_parameters {"rope_type", "rope_theta", ...}            from 5.0

Trap: a scaling kind that is not known here is refused; reading it as no scaling would give a model that answers
well on short texts only.
"""

import math
from collections.abc import Mapping
from typing import Any

from polymodal.errors import ConfigError
from polymodal.nn.rope import (
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    NTKScaling,
    ProportionalScaling,
    RopeScaling,
    YarnScaling,
)


def rope_of(config: Mapping[str, Any], theta: float = 10000.0) -> tuple[float, RopeScaling | None]:
    """(theta, scaling) of a published config; `theta` is the family's default.  Raises ConfigError."""
    settings = dict(config.get("rope_scaling") or {})
    settings.update(config.get("rope_parameters") or {})
    theta = float(settings.get("rope_theta") or config.get("rope_theta") or theta)
    kind = settings.get("rope_type") or settings.get("type") or "default"
    longest = int(config.get("max_position_embeddings") or 2048)
    trained = int(config.get("original_max_position_embeddings") or 0)
    trained = trained or int(settings.get("original_max_position_embeddings") or longest)
    if kind == "default" or kind == "mrope":
        return theta, None
    if kind == "linear":
        return theta, LinearScaling(factor=settings["factor"])
    if kind == "dynamic":
        return theta, NTKScaling(factor=settings["factor"], trained_length=longest)
    if kind == "proportional":
        share, factor = settings.get("partial_rotary_factor", 1.0), settings.get("factor", 1.0)
        return theta, ProportionalScaling(share=share, factor=factor)
    settings["factor"] = settings.get("factor") or longest / trained
    if kind == "yarn":
        return theta, _yarn(settings, trained)
    if kind == "longrope":
        return theta, _longrope(settings, trained)
    if kind == "llama3":
        return theta, _llama3(settings, trained)
    known = "default, linear, dynamic, yarn, longrope, llama3 or proportional"
    raise ConfigError(f"rope scaling {kind!r} is not supported; expected {known}")


def _llama3(settings: Mapping[str, Any], trained: int) -> Llama3Scaling:
    return Llama3Scaling(
        factor=settings["factor"],
        trained_length=trained,
        low_frequency_factor=settings["low_freq_factor"],
        high_frequency_factor=settings["high_freq_factor"],
    )


def _warmth(factor: float, weight: float = 1.0) -> float:
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _yarn(settings: Mapping[str, Any], trained: int) -> YarnScaling:
    attention, factor = settings.get("attention_factor"), settings["factor"]
    if attention is None and settings.get("mscale") and settings.get("mscale_all_dim"):  # DeepSeek
        attention = _warmth(factor, settings["mscale"]) / _warmth(factor, settings["mscale_all_dim"])
    return YarnScaling(
        factor=factor,
        trained_length=trained,
        beta_fast=settings.get("beta_fast") or 32.0,
        beta_slow=settings.get("beta_slow") or 1.0,
        attention_factor=attention,
        truncate=settings.get("truncate", True),
    )


def _longrope(settings: Mapping[str, Any], trained: int) -> LongRopeScaling:
    attention, factor = settings.get("attention_factor"), settings["factor"]
    if attention is None:
        attention = math.sqrt(1 + math.log(factor) / math.log(trained)) if factor > 1 else 1.0
    return LongRopeScaling(
        short=tuple(settings["short_factor"]),
        long=tuple(settings["long_factor"]),
        trained_length=trained,
        attention_factor=attention,
    )
