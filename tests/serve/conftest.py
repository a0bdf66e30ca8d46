"""A running server over tiny models of the catalogue."""

import shutil
from collections.abc import Iterator

import pytest

import polymodal as pm
from headline_folders import captured
from polymodal.serve.app import create_app
from polymodal.serve.models import ServedModel
from served import SETTINGS, running


@pytest.fixture(scope="session")
def llava(tmp_path_factory) -> pm.Model:
    """A tiny random LLaVA."""
    return pm.load(captured("llava_1_5", tmp_path_factory.mktemp("served") / "llava"))


@pytest.fixture(scope="session")
def clip(tmp_path_factory) -> pm.Model:
    """A tiny random CLIP."""
    return pm.load(captured("clip", tmp_path_factory.mktemp("served") / "clip"))


@pytest.fixture(scope="session")
def served(llava, clip) -> Iterator[tuple[str, dict[str, ServedModel]]]:
    """(address, models) of a server that runs for all tests."""
    models = {name: ServedModel(name, model, SETTINGS) for name, model in (("llava", llava), ("clip", clip))}
    with running(create_app(models, SETTINGS)) as address:
        yield address, models


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator:
    playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested where playwright is installed")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()
