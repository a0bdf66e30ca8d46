"""What every test may rely on: no network, one thread, a cache folder nobody else uses unless asked for."""

import gc
import os
import socket
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_collection_finish() -> None:
    """Ten thousand tests and what they import live to the end: the garbage collector need not look at them again, and
    not at the rest for each 700 objects more, as is usual; that was a ninth of the suite's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 10, 10)


def refuse(*_: object, **__: object) -> None:
    raise OSError("tests never open the network")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name look-ups fail, and so does every connection that is not to this machine itself."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        host = address[0] if isinstance(address, tuple) else None
        if self.family == socket.AF_UNIX or host in {"127.0.0.1", "::1", "localhost"}:
            return connect(self, address)  # type: ignore[arg-type]
        return refuse()

    monkeypatch.setattr(socket.socket, "connect", local_only)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder with the picture and the recording that ship with the project."""
    return Path(__file__).resolve().parents[1] / "examples"
