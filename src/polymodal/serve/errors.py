"""Errors as OpenAI's clients read them: {"error": {"message", "type", "param", "code"}} and a status.

What a sender did wrong is 4xx with our one line; a defect is 500 with a fixed line, its trace in the log alone.
"""

from __future__ import annotations

import logging
from typing import Any

from polymodal.engine.request import QueueFull
from polymodal.errors import PolymodalError, UnknownName, WeightsError

LOG = logging.getLogger("polymodal.serve")
RETRY = {"Retry-After": "1"}
DEFECT = "the server failed at this request; its log says why"


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        # After 408 the rest of the request may come still, where nobody waits for it.
        self.headers = {408: {"Connection": "close"}, 429: RETRY, 503: RETRY}.get(status, {})

    @property
    def body(self) -> dict[str, Any]:
        """As JSON."""
        kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def refusal(problem: BaseException) -> Refused:
    """Any error as an answer; one that nobody foresaw is logged with its trace."""
    if isinstance(problem, Refused):
        return problem
    if isinstance(problem, QueueFull):
        return Refused(429, str(problem), code="queue_full")
    if isinstance(problem, UnknownName):
        return Refused(404, str(problem), code="not_found")
    if isinstance(problem, WeightsError):
        # Not the sender's fault: damaged weights, or scores that are no numbers.
        return Refused(500, str(problem))
    if isinstance(problem, PolymodalError):
        return Refused(400, str(problem))
    LOG.error("a request failed", exc_info=problem)
    if isinstance(problem, MemoryError) or "allocate memory" in str(problem):
        return Refused(503, "not enough memory for this request; send less, or try again later")
    return Refused(500, DEFECT)
