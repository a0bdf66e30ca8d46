"""An application that is being served in a thread of this process, for tests."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from polymodal.serve.connections import configured
from polymodal.serve.settings import RequestLimits, Settings

SETTINGS = Settings(hosts=frozenset({"127.0.0.1"}), requests=RequestLimits(max_tokens=200, body=2_000_000), drain=5)


@contextmanager
def running(app, settings: Settings = SETTINGS) -> Iterator[str]:
    """The address of an application that is being served, as the command line serves it."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(configured(app, settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
