"""One server in front of replicas on several machines, through Ray Serve.

    client -> uvicorn with our limits -> Guard -> Front -> a replica that Ray chooses -> its application -> back again

The front is an ordinary server of ours: keys, hosts, sizes and times are checked there, and it drains as any other.
Ray places the replicas, restarts those that die and balances requests; its own HTTP proxy, which has none of our
limits, is not started.  A request is carried whole, its answer message by message; who hangs up cancels it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import uuid
from collections.abc import AsyncGenerator, Callable, MutableMapping
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse

from polymodal.errors import ConfigError
from polymodal.serve.errors import LOG, Refused
from polymodal.serve.guard import Application, Guard, Receive, Scope, Send
from polymodal.serve.metrics import Metrics
from polymodal.serve.settings import Settings
from polymodal.serve.site import PUBLIC

Build = Callable[[], Application]
"""makes the application on the replica's machine; it travels there by pickle"""

CARRIED = ("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path",
           "headers", "client", "server")  # fmt: skip
WAITING = 1024  # requests of one replica at once; its engine has a queue and a limit of its own
PATIENCE = 15.0  # seconds beyond a request's own that its first message may take
GONE = Refused(503, "the replica that answered is gone; try again")


class Replica:
    """An application in a process of Ray's."""

    def __init__(self, build: Build) -> None:
        self._app = build()

    async def answer(self, scope: Scope, body: bytes) -> AsyncGenerator[MutableMapping[str, Any], None]:
        """The messages of the answer to one request; ending the generator ends the work."""
        messages: asyncio.Queue[MutableMapping[str, Any] | None] = asyncio.Queue()
        given = iter(({"type": "http.request", "body": body, "more_body": False},))

        async def receive() -> MutableMapping[str, Any]:
            for message in given:
                return message
            return await asyncio.get_running_loop().create_future()  # cancelled with the request

        async def work() -> None:
            try:
                await self._app(scope, receive, messages.put)
            finally:
                messages.put_nowait(None)

        task = asyncio.ensure_future(work())
        try:
            while (message := await messages.get()) is not None:
                yield message
            await task
        finally:
            task.cancel()


class Front:
    """An ASGI application that hands each request to a replica.  handle: Ray's, of the deployment of `Replica`."""

    def __init__(self, handle: Any, settings: Settings, metrics: Metrics) -> None:
        self._answer = handle.options(stream=True, method_name="answer")
        self._settings, self._metrics = settings, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["path"] == "/metrics":
            await PlainTextResponse(self._metrics.text(), media_type="text/plain; version=0.0.4")(scope, receive, send)
        else:
            body = bytearray()
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return
                body += message.get("body", b"")
                if not message.get("more_body"):
                    break
            await self._forward(scope, bytes(body), receive, send)

    async def _forward(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        carried = {name: scope[name] for name in CARRIED if name in scope}
        answer = self._answer.remote(carried, body)
        gone = asyncio.ensure_future(_until_gone(receive))
        started = ended = False
        try:
            async with asyncio.timeout(self._settings.requests.seconds + PATIENCE) as patience:
                while not ended and (message := await _next(answer, gone)) is not None:
                    patience.reschedule(None)  # from here on the replica's own limits hold
                    started = True
                    await send(message)
                    ended = message["type"] == "http.response.body" and not message.get("more_body")
        except Exception as problem:
            if started:
                raise  # the answer is cut off; nothing else can be said
            LOG.warning("a replica failed: %s", type(problem).__name__)
            await JSONResponse(GONE.body, GONE.status, GONE.headers)(scope, receive, send)
        finally:
            gone.cancel()
            if not ended:
                answer.cancel()


async def _next(answer: Any, gone: asyncio.Future[None]) -> MutableMapping[str, Any] | None:
    """The next message; None at the end, and when the client has gone."""
    following = asyncio.ensure_future(anext(answer, None))
    await asyncio.wait({following, gone}, return_when=asyncio.FIRST_COMPLETED)
    if following.done():
        return following.result()
    following.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody else asks for it
    return None


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _live(receive: Receive, send: Send) -> None:
    for event in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{event}.complete"})


class Replicas:
    """`count` replicas of what `build` makes, in the cluster that RAY_ADDRESS names or that runs here, else in a new
    one on this machine.

    Raises ConfigError without Ray, and for a cluster that is too small.
    """

    def __init__(self, build: Build, count: int, settings: Settings) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to anybody
        logging.getLogger("ray").setLevel(logging.ERROR)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        try:
            import ray
            from ray import serve
        except ImportError:
            raise ConfigError("--ray needs the package ray: pip install 'polymodal[ray]'") from None
        self._ray, self._serve, self._name = ray, serve, f"polymodal-{uuid.uuid4().hex[:8]}"
        ray.init(ignore_reinit_error=True, log_to_driver=False, include_dashboard=False, logging_level="ERROR")
        there = ray.cluster_resources()
        if there.get("CPU", 0) < count:
            raise ConfigError(f"--ray {count}: the cluster has {there.get('CPU', 0):g} CPUs, one is needed for each")
        each = {"num_cpus": 1, "num_gpus": 1 if there.get("GPU", 0) >= count else 0}
        serve.start(proxy_location="Disabled", logging_config={"log_level": "ERROR", "enable_access_log": False})
        deployment = serve.deployment(
            Replica,
            num_replicas=count,
            ray_actor_options=each,
            max_ongoing_requests=WAITING,
            graceful_shutdown_timeout_s=settings.drain,
        )
        self.handle = serve.run(deployment.bind(build), name=self._name, route_prefix=None)
        self._settings = settings

    def app(self) -> Application:
        """What a server of ours serves."""
        metrics = Metrics({})
        return Guard(Front(self.handle, self._settings, metrics), self._settings, PUBLIC, metrics.request)

    def close(self) -> None:
        """End the replicas; a cluster that was here before goes on."""
        self._serve.delete(self._name)
        self._ray.shutdown()
