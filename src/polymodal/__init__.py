"""polymodal: multimodal models from one set of parts.

    import polymodal as pm
    model = pm.load("mini")
    reply = model.chat("What is in this picture?", pm.image("photo.jpg"))

Importing this loads nothing heavy: each name below is fetched from its module the first time it is used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "agent": "polymodal.api.agent",
    "AgentLimits": "polymodal.agents.record",
    "Tool": "polymodal.agents.tools",
    "Box": "polymodal.agents.tools",
    "chat_format": "polymodal.api.chat_format",
    "load": "polymodal.api.load",
    "look": "polymodal.api.load",
    "pull": "polymodal.api.load",
    "data_set": "polymodal.api.data_sets",
    "data_sets": "polymodal.api.data_sets",
    "Model": "polymodal.api.model",
    "Reply": "polymodal.api.reply",
    "Limits": "polymodal.data.limits",
    "index": "polymodal.api.search",
    "fit": "polymodal.api.training",
    "plan": "polymodal.api.planning",
    "resume": "polymodal.api.training",
    "export": "polymodal.api.training",
    "PrepareOptions": "polymodal.api.preparing",
    "prepare": "polymodal.api.preparing",
    "TrainOptions": "polymodal.api.training",
    "begin": "polymodal.api.fresh",
    "can_begin": "polymodal.api.fresh",
    "predict_features": "polymodal.api.feature_predictions",
    "measure": "polymodal.api.evaluation",
    "check_data": "polymodal.api.evaluation",
    "EvaluateOptions": "polymodal.api.evaluation",
    "image": "polymodal.api.media",
    "audio": "polymodal.api.media",
    "video": "polymodal.api.media",
    "array": "polymodal.api.media",
    "regions": "polymodal.api.media",
    "text": "polymodal.api.media",
    "media": "polymodal.api.media",
    "voice": "polymodal.api.voice",
    "Voice": "polymodal.api.voice",
    "Speech": "polymodal.api.voice",
    "study_fusion": "polymodal.study.fusion",
    "FusionOptions": "polymodal.study.fusion",
    "study_convergence": "polymodal.study.convergence",
    "ConvergenceOptions": "polymodal.study.convergence",
}

if TYPE_CHECKING:
    from polymodal.agents.record import AgentLimits as AgentLimits
    from polymodal.agents.tools import Box as Box
    from polymodal.agents.tools import Tool as Tool
    from polymodal.api.agent import agent as agent
    from polymodal.api.chat_format import chat_format as chat_format
    from polymodal.api.data_sets import data_set as data_set
    from polymodal.api.data_sets import data_sets as data_sets
    from polymodal.api.evaluation import EvaluateOptions as EvaluateOptions
    from polymodal.api.evaluation import check_data as check_data
    from polymodal.api.evaluation import measure as measure
    from polymodal.api.feature_predictions import predict_features as predict_features
    from polymodal.api.fresh import begin as begin
    from polymodal.api.fresh import can_begin as can_begin
    from polymodal.api.load import load as load
    from polymodal.api.load import look as look
    from polymodal.api.load import pull as pull
    from polymodal.api.media import array as array
    from polymodal.api.media import audio as audio
    from polymodal.api.media import image as image
    from polymodal.api.media import media as media
    from polymodal.api.media import regions as regions
    from polymodal.api.media import text as text
    from polymodal.api.media import video as video
    from polymodal.api.model import Model as Model
    from polymodal.api.planning import plan as plan
    from polymodal.api.preparing import PrepareOptions as PrepareOptions
    from polymodal.api.preparing import prepare as prepare
    from polymodal.api.reply import Reply as Reply
    from polymodal.api.search import index as index
    from polymodal.api.training import TrainOptions as TrainOptions
    from polymodal.api.training import export as export
    from polymodal.api.training import fit as fit
    from polymodal.api.training import resume as resume
    from polymodal.api.voice import Speech as Speech
    from polymodal.api.voice import Voice as Voice
    from polymodal.api.voice import voice as voice
    from polymodal.data.limits import Limits as Limits
    from polymodal.study.convergence import ConvergenceOptions as ConvergenceOptions
    from polymodal.study.convergence import study_convergence as study_convergence
    from polymodal.study.fusion import FusionOptions as FusionOptions
    from polymodal.study.fusion import study_fusion as study_fusion

__all__ = [
    "AgentLimits",
    "Box",
    "ConvergenceOptions",
    "EvaluateOptions",
    "FusionOptions",
    "Limits",
    "Model",
    "PrepareOptions",
    "Reply",
    "Speech",
    "Tool",
    "TrainOptions",
    "Voice",
    "agent",
    "array",
    "audio",
    "begin",
    "can_begin",
    "chat_format",
    "check_data",
    "data_set",
    "data_sets",
    "export",
    "fit",
    "image",
    "index",
    "load",
    "look",
    "measure",
    "media",
    "plan",
    "predict_features",
    "prepare",
    "pull",
    "regions",
    "resume",
    "study_convergence",
    "study_fusion",
    "text",
    "video",
    "voice",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'polymodal' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
