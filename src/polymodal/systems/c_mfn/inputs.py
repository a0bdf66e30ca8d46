"""Samples of UR-FUNNY's feature files as C-MFN takes them.

    folder: data_folds.pkl, language_sdk.pkl (V1: word_embedding_indexes_sdk.pkl), covarep_features_sdk.pkl,
            openface_features_sdk.pkl, humor_label_sdk.pkl, word_embedding_list.pkl
    -> the first 20 words of a sentence, the last 5 sentences of its context, both padded in front
       (V2 has longer contexts; the authors read 5 of them too)

Traps: word 0's vector stands at padded words; a context without sentences is zeros throughout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymodal.errors import ConfigError, PromptError
from polymodal.weights.array_pickle import read_pickle

LANGUAGE = ("language_sdk.pkl", "word_embedding_indexes_sdk.pkl")
HEARD = {"audio": "covarep_features_sdk.pkl", "vision": "openface_features_sdk.pkl"}


def front_padded(rows: Sequence[Any], steps: int, width: int) -> Tensor:
    """The first `steps` rows as float32 `[steps, width]`, zeros before them.  Raises PromptError for another width."""
    made = torch.zeros(steps, width)
    if len(rows):
        values = torch.as_tensor(np.asarray(rows, dtype=np.float32))[:steps]
        if values.dim() != 2 or values.shape[1] != width:
            raise PromptError(f"a sentence's features are {list(values.shape)}, expected [words, {width}]")
        made[steps - len(values) :] = values
    return made


class UrFunny:
    """The folder, opened; folds: names of samples by split."""

    def __init__(self, folder: Path, *, sentences: int = 5, steps: int = 20) -> None:
        self.sentences, self.steps = sentences, steps
        language = next((folder / name for name in LANGUAGE if (folder / name).exists()), folder / LANGUAGE[0])
        self.language: Mapping[Any, Any] = read_pickle(language)
        self.heard = {name: read_pickle(folder / file) for name, file in HEARD.items()}
        self.labels = read_pickle(folder / "humor_label_sdk.pkl")
        self.table = torch.as_tensor(np.asarray(read_pickle(folder / "word_embedding_list.pkl"), dtype=np.float32))
        self.folds: Mapping[str, Sequence[Any]] = read_pickle(folder / "data_folds.pkl")

    def batch(self, names: Sequence[Any]) -> dict[str, Tensor]:
        """The model's inputs, and labels `[B, 1]`.  Raises ConfigError for a name the files do not have."""
        samples = [self.sample(name) for name in names]
        return {key: torch.stack([each[key] for each in samples]) for key in samples[0]}

    def sample(self, name: Any) -> dict[str, Tensor]:
        for table in (self.language, *self.heard.values(), self.labels):
            if name not in table:
                raise ConfigError(f"UR-FUNNY: the files have no sample {name!r}")
        said = self.language[name]
        made = {"text": self.words(said["punchline_embedding_indexes"])}
        contexts = {"text": [self.words(each) for each in said["context_embedding_indexes"][-self.sentences :]]}
        for modality, table in self.heard.items():
            own = table[name]
            width = len(np.asarray(own["punchline_features"][0]).reshape(-1))
            made[modality] = front_padded(own["punchline_features"], self.steps, width)
            recent = own["context_features"][-self.sentences :]
            contexts[modality] = [front_padded(each, self.steps, width) for each in recent]
        if len({len(each) for each in contexts.values()}) > 1:
            counts = ", ".join(f"{modality} {len(each)}" for modality, each in contexts.items())
            raise PromptError(f"UR-FUNNY: sample {name!r} has unequal numbers of sentences before it: {counts}")
        for modality, rows in contexts.items():
            whole = torch.zeros(self.sentences, *made[modality].shape)
            for place, row in enumerate(rows, self.sentences - len(rows)):
                whole[place] = row
            made[f"context_{modality}"] = whole
        return {**made, "labels": torch.tensor([float(self.labels[name])])}

    def words(self, ids: Sequence[int]) -> Tensor:
        """Vectors of the first words, word 0's before them, `[steps, F]`."""
        own = [int(each) for each in ids][: self.steps]
        if own and not 0 <= min(own) <= max(own) < len(self.table):
            raise PromptError(f"UR-FUNNY: word {max(own)} is asked for, the table has {len(self.table)} words")
        return self.table[[0] * (self.steps - len(own)) + own]
