"""A cache folder per test, settings of pip and npm that lead nowhere, and a small local web server."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_site import Site, serving

from polymodal.weights import connection, npm, pypi


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "assets: needs published weights in the user's cache, skipped without")


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every test has an empty cache, and neither pip nor npm configuration of this machine."""
    home = tmp_path / "cache"
    monkeypatch.setenv("POLYMODAL_HOME", str(home))
    monkeypatch.delenv("POLYMODAL_OFFLINE", raising=False)
    for name in list(os.environ):
        if name.upper().startswith(("PIP_", "UV_", "NPM_CONFIG_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(pypi, "_pip_config", dict)
    monkeypatch.setattr(npm, "_from_npm", dict)
    monkeypatch.setattr(npm, "_from_files", dict)
    monkeypatch.setattr(connection.time, "sleep", lambda _: None)
    return home


@pytest.fixture
def index(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setenv("PIP_INDEX_URL", f"{site.url}/simple/")
    return site
