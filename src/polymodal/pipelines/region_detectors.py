"""Stand-ins for the detector that region models were trained with (Faster R-CNN of bottom-up attention, 1707.07998).

    GridDetector(features, cells)   picture -> an encoder's grid -> every cell is a region, its box the cell's

No checkpoint of that detector is in the catalogue.  Grid features are known to serve in its place where the model was
trained with them ("In Defense of Grid Features", arXiv 2001.03615); a published model does NOT know these ones, so its
answers about them mean nothing until it is fine-tuned.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymodal.data.region_features import RegionFeatures
from polymodal.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class GridDetector:
    """features: picture -> [rows * columns, F], row by row, as an encoder without its class token gives them."""

    features: Callable[[Any], Tensor]
    rows: int
    columns: int

    @torch.inference_mode()
    def __call__(self, picture: Any) -> RegionFeatures:
        """Raises ConfigError for another number of cells."""
        found = self.features(picture).float().cpu()
        if found.dim() != 2 or len(found) != self.rows * self.columns:
            raise ConfigError(f"grid: expected [{self.rows * self.columns}, F] of a picture, found {list(found.shape)}")
        return RegionFeatures(features=found.numpy(), boxes=grid_boxes(self.rows, self.columns), name="grid")


def grid_boxes(rows: int, columns: int) -> np.ndarray:
    """The cells of a grid as boxes [rows * columns, 4], shares of the picture, row by row."""
    top, left = np.divmod(np.arange(rows * columns), columns)
    return np.stack((left / columns, top / rows, (left + 1) / columns, (top + 1) / rows), 1).astype(np.float32)
