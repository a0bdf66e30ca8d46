"""The catalogue: one entry for each published system, and the records it is written with (rank 7).

from polymodal.systems import System, Variant, CheckpointFormat, ModelSpec, LoadedModel, Part, Repository, hf
from polymodal.systems import Stage, DataSource, Budget, AdamW, Cosine, LanguageModeling, ...: for its recipe
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
from polymodal.systems._listing import as_dict
from polymodal.systems._lookup import candidates, every, find, get, ids, plain, require, stems
from polymodal.systems._record import LoadOptions, System, Variant, unknown
from polymodal.systems._selection import LINES, Wanted, grouped, line_of_work, select
from polymodal.train.objectives import Classification, Contrastive, LanguageModeling, Regression, SumOfSources
from polymodal.train.optimizer import SGD, Adam, AdamW
from polymodal.train.recipe import Budget, DataSource, LayerDecay, LoRAConfig, PartRate, Stage
from polymodal.train.schedule import Constant, Cosine, Linear

__all__ = [
    "LINES",
    "SGD",
    "Adam",
    "AdamW",
    "Budget",
    "CheckpointFiles",
    "CheckpointFormat",
    "Classification",
    "ConfigMatch",
    "Constant",
    "Contrastive",
    "Cosine",
    "DataSource",
    "LanguageModeling",
    "LayerDecay",
    "Linear",
    "LoRAConfig",
    "LoadOptions",
    "LoadedModel",
    "ModelSpec",
    "Part",
    "PartRate",
    "Regression",
    "Repository",
    "Stage",
    "SumOfSources",
    "System",
    "Variant",
    "Wanted",
    "as_dict",
    "candidates",
    "every",
    "find",
    "get",
    "grouped",
    "hf",
    "ids",
    "line_of_work",
    "plain",
    "require",
    "select",
    "stems",
    "unknown",
]
