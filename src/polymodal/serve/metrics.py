"""GET /metrics, in the format of Prometheus: requests, tokens, waiting times, and what the engines hold now."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

from polymodal.engine.request import Event
from polymodal.serve.models import ServedModel
from polymodal.serve.worker import Ticket

SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class Metrics:
    """Of one application; a registry of its own, so that several applications of one process do not meet."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter("polymodal_requests", "Answered requests", ["route", "status"], registry=self.registry)
        self._tokens = Counter("polymodal_tokens", "Tokens", ["model", "kind"], registry=self.registry)
        self._first = Histogram(
            "polymodal_first_token_seconds",
            "From a request's arrival to its first token",
            ["model"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.registry.register(_Engines(models))

    def request(self, route: str, status: int) -> None:
        """Count an answered request."""
        self._requests.labels(route, str(status)).inc()

    def watch(self, model: str, ticket: Ticket) -> Ticket:
        """Count the tokens of a request, and the seconds to its first one; returns the ticket."""
        arrived = time.monotonic()
        self._tokens.labels(model, "prompt").inc(len(ticket.request.encoded))
        generated, first = self._tokens.labels(model, "generated"), [True]

        def saw(event: Event) -> None:
            if event.piece is not None:
                generated.inc()
                if first:
                    first.clear()
                    self._first.labels(model).observe(time.monotonic() - arrived)

        ticket.watcher = saw
        return ticket

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self.registry)


class _Engines:
    """What the engines hold at the moment of asking."""

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models

    def collect(self) -> Iterator[GaugeMetricFamily]:
        for name, text, value in (
            ("running", "Answers that are being written", lambda engine: engine.running),
            ("waiting", "Requests of which nothing was computed yet", lambda engine: engine.waiting),
            ("cache_bytes", "Bytes of keys, values, features and prepared media", lambda engine: engine.nbytes),
        ):
            family = GaugeMetricFamily(f"polymodal_{name}", text, labels=["model"])
            for model in self._models.values():
                family.add_metric([model.name], sum(value(engine) for engine in model.engines))
            yield family
