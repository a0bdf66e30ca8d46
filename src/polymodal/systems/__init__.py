"""The catalogue: one entry for each published system, and the records it is written with (rank 7).

from polymodal.systems import System, Variant, Stage, CheckpointFormat, ModelSpec, LoadedModel, Part, Repository, hf
"""

from polymodal.checkpoints.record import (
    CheckpointFiles,
    CheckpointFormat,
    ConfigMatch,
    LoadedModel,
    ModelSpec,
    Part,
    Repository,
    hf,
)
from polymodal.systems._lookup import candidates, every, find, get, ids, plain, stems
from polymodal.systems._record import LoadOptions, System, Variant, unknown
from polymodal.train.recipe import Stage

__all__ = [
    "CheckpointFiles",
    "CheckpointFormat",
    "ConfigMatch",
    "LoadOptions",
    "LoadedModel",
    "ModelSpec",
    "Part",
    "Repository",
    "Stage",
    "System",
    "Variant",
    "candidates",
    "every",
    "find",
    "get",
    "hf",
    "ids",
    "plain",
    "stems",
    "unknown",
]
