"""Small files of published checkpoints (config, tokenizer, chat template) for tests that want the real ones.

POLYMODAL_PUBLISHED names a folder that holds one folder for each checkpoint; tests are skipped where it is not set.
"""

import os
from pathlib import Path

import pytest


def published_folder(name: str) -> Path:
    """The folder of one checkpoint; skips the test that asks where there is none."""
    root = os.environ.get("POLYMODAL_PUBLISHED")
    if root is None or not (Path(root) / name).is_dir():
        pytest.skip(f"POLYMODAL_PUBLISHED has no {name}")
    return Path(root) / name
