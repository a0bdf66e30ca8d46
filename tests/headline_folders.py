"""The folder that the headline of a system makes: tiny, in its published layout, before anything is trained on it."""

import importlib
import shutil
from pathlib import Path

import pytest

import polymodal as pm


class Made(Exception):
    """The folder of a headline is complete."""


def captured(stem: str, target: Path) -> Path:
    """The folder of system `stem`, copied to `target`."""

    def keep(place, *_, **__):
        # Until the test ends nothing else may load; a name inside the folder's config may point into it.
        shutil.copytree(place, target)
        config = target / "config.json"
        config.write_text(config.read_text().replace(str(place), str(target)))
        raise Made

    with pytest.MonkeyPatch.context() as patch:
        evidence = importlib.import_module(f"polymodal.check.evidence.{stem}").EVIDENCE
        patch.setattr(pm, "load", keep)
        with pytest.raises(Made):
            evidence.headline()
    return target
