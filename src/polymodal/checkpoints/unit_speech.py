"""The files that hear and speak for a language model with units of speech, beside its weights as SpeechGPT keeps them.

    speech2unit/   mhubert_base_vp_en_es_fr_it3.pt, or config.json and model.safetensors of a HubertModel
                   mhubert_base_vp_en_es_fr_it3_L11_km1000.bin (joblib), or the centroids alone as *km*.npy [1000, 768]
    vocoder/       config.json, vocoder.pt (g_00500000 of mhubert_vp_en_es_fr_it3_400k_layer11_km1000_lj)

Traps: layers count from 1, so layer 11 leaves the last block unread; the clusters of another layer fit in shape and
mean nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from polymodal.checkpoints.record import CheckpointFiles
from polymodal.data.tokenizer import Tokenizer
from polymodal.encoders import hubert
from polymodal.encoders.hubert import Hubert
from polymodal.errors import ConfigError, WeightsError
from polymodal.files import open_regular
from polymodal.generators import unit_vocoder
from polymodal.generators.unit_vocoder import UnitVocoder
from polymodal.weights.array_pickle import read_joblib
from polymodal.weights.folder import weights_in
from polymodal.weights.load import load_module

EARS, VOICE = "speech2unit", "vocoder"
LAYER = 11


@dataclass(frozen=True)
class SpeechFiles:
    """folder: of the language model.  units: how many its vocabulary has.  layer: whose features they are clusters of,
    the last one where there are fewer."""

    folder: Path
    units: int
    layer: int = LAYER

    @property
    def speaks(self) -> bool:
        """Whether there is a vocoder."""
        return (self.folder / VOICE / "config.json").is_file()

    def ears(self) -> tuple[Hubert, Tensor]:
        """mHuBERT and its centroids [K, D].  Raises ConfigError or WeightsError where they do not fit."""
        place = self.folder / EARS
        if not place.is_dir():
            raise ConfigError(
                f"{self.folder} has no {EARS}/ with mHuBERT and its clusters, so it hears no recording; put "
                "mhubert_base_vp_en_es_fr_it3.pt and mhubert_base_vp_en_es_fr_it3_L11_km1000.bin there"
            )
        config = hubert.parse_config(CheckpointFiles(place).json("config.json"))
        config = hubert.parse_config(CheckpointFiles(place).json("config.json"), min(self.layer, config.layers))
        tables = (hubert.fairseq_keys(config), *hubert.hf_keys(config))
        tensors = weights_in(place, ("model", ""))
        module = load_module(config.build, tensors, tables, dtype=torch.float32).eval()
        return module, self._centroids(place, config.width)

    def voice(self) -> UnitVocoder:
        """The vocoder.  Raises ConfigError where there is none."""
        if not self.speaks:
            raise ConfigError(
                f"{self.folder} has no {VOICE}/config.json, so it cannot speak; put the config.json and g_00500000 (as "
                "vocoder.pt) of mhubert_vp_en_es_fr_it3_400k_layer11_km1000_lj there"
            )
        config = unit_vocoder.parse_config(CheckpointFiles(self.folder / VOICE).json("config.json"))
        tensors = weights_in(self.folder / VOICE, ("generator", ""))
        return load_module(config.build, tensors, (unit_vocoder.keys(config),), dtype=torch.float32).eval()

    def _centroids(self, place: Path, width: int) -> Tensor:
        found = sorted((*place.glob("*km*.bin"), *place.glob("*km*.npy")))
        if len(found) != 1:
            names = ", ".join(each.name for each in found) or "none"
            raise WeightsError(f"{place}: expected one file of clusters, *km*.bin or *km*.npy, found {names}")
        table = read_joblib(found[0], "cluster_centers_") if found[0].suffix == ".bin" else plain(found[0])
        shape = f"[{self.units} at most, {width}]"
        if table.ndim != 2 or table.shape[1] != width or not 1 <= len(table) <= self.units or table.dtype.kind != "f":
            raise WeightsError(f"{found[0]}: expected centroids {shape}, found {list(table.shape)} of {table.dtype}")
        return torch.from_numpy(np.array(table, dtype=np.float32))


def plain(path: Path) -> np.ndarray:
    """An array of a .npy file.  Raises WeightsError for another kind of file."""
    with open_regular(path, error=WeightsError) as file:
        try:
            return np.asarray(np.load(file, allow_pickle=False))
        except ValueError as problem:
            raise WeightsError(f"{path} is no array of numbers: {problem}") from problem


def count_units(tokenizer: Tokenizer, *marks: str) -> int:
    """How many units <0>, <1>, ... the vocabulary has.  Raises ConfigError for none, for missing marks, and for units
    that are special tokens, which a text cannot hold."""
    count = 0
    while tokenizer.knows(f"<{count}>"):
        count += 1
    lacking = [name for name in ("<0>", *marks) if not tokenizer.knows(name)]
    if lacking:
        raise ConfigError(
            f"the tokenizer has no {', '.join(lacking)}; expected units of speech <0>, <1>, ... and marks"
        )
    if any(name in tokenizer.special_tokens for name in ("<0>", *marks)):
        raise ConfigError("units of speech are special tokens of this tokenizer; expected ordinary added tokens")
    return count
