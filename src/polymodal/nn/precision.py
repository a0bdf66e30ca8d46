"""The precision that a forward pass computes at."""

import torch


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """The dtype of ``torch.autocast`` on a kind of device ("cpu", "cuda"); None outside of it."""
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None
