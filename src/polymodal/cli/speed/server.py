"""The server under load: a bounded number of clients, one request after another each, over HTTP of this machine."""

from __future__ import annotations

import http.client
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import polymodal as pm
from polymodal.cli.server import LOCAL, listen
from polymodal.cli.speed.rounds import Measure
from polymodal.errors import WeightsError

CLIENTS = 16
SECONDS = 600.0


@contextmanager
def served(model: pm.Model) -> Iterator[int]:
    """The port of a server of `model` in a thread of this process."""
    import uvicorn

    from polymodal.serve.app import create_app
    from polymodal.serve.models import ServedModel
    from polymodal.serve.settings import Settings

    settings = Settings(hosts=frozenset(LOCAL))
    app = create_app({"model": ServedModel("model", model, settings)}, settings)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=5))
    listening = listen(LOCAL[0], 0)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)


def measures(port: int, new: int) -> list[Measure]:
    """Tokens a second of all clients together, beside those of one alone."""
    rounds = itertools.count()

    def run_of(clients: int) -> Callable[[], tuple[float, Any]]:
        # Nothing to compare: every round asks something else, so that no answer is known from the round before.
        return lambda: (load(port, clients, new, first=next(rounds) * 1000)[0], None)

    sides = {"polymodal": run_of(CLIENTS), "one client": run_of(1)}
    return [Measure(name=f"server, {CLIENTS} clients", unit="tokens/s", sides=sides, aims={"one client": 3.0})]


def load(port: int, clients: int, new: int, each: int = 2, first: int = 0) -> tuple[float, dict[int, str]]:
    """`each` questions by every client, numbered from `first` -> tokens a second of all, and the answers by question.

    Raises WeightsError when a request is not answered.
    """
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        replies = list(pool.map(lambda number: ask(port, first + number, new), range(clients * each)))
    seconds = time.perf_counter() - start
    return sum(tokens for tokens, _ in replies) / seconds, {n: text for n, (_, text) in enumerate(replies)}


def ask(port: int, number: int, new: int) -> tuple[int, str]:
    """(tokens, text) of the answer to question `number`."""
    body = {
        "model": "model",
        "messages": [{"role": "user", "content": f"{number + 2} animals: write a long story about them."}],
        "max_tokens": new,
        "temperature": 0,
    }
    connection = http.client.HTTPConnection(LOCAL[0], port, timeout=SECONDS)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        found = json.loads(answer.read())
    finally:
        connection.close()
    if answer.status != 200:
        raise WeightsError(f"bench: the server answered {answer.status} to request {number}: {str(found)[:200]}")
    return found["usage"]["completion_tokens"], found["choices"][0]["message"]["content"]
