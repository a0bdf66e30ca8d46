"""Planners: whoever reads an agent's prompt and writes its next words.

    planner(messages, stop=("\\nObservation: ",)) -> text        messages: {"role": ..., "content": ...}

`Scripted` says what it was given, for tests and to play a recorded plan again; `Endpoint` asks a server with OpenAI's
interface (llama.cpp, vLLM, `polymodal serve`, ...).  A local chat model is one through api/agent.py. Traps: an endpoint
gets the conversation and the names of files, never their content; its key goes to it alone, and not over plain http
unless it is this machine.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from polymodal.errors import ConfigError, PolymodalError, Unreachable
from polymodal.weights.connection import is_loopback, origin

Said = Mapping[str, str]
LONGEST = 1_000_000  # characters of one output


class PlannerError(PolymodalError):
    """A planner that gives no text: a script at its end, a server's error."""


@runtime_checkable
class Planner(Protocol):
    """Writes the next words of a conversation, without those from the first stop text on."""

    def __call__(self, messages: Sequence[Said], stop: Sequence[str] = ()) -> str: ...


def cut(text: str, stop: Sequence[str]) -> str:
    """A text up to the first of its stop texts."""
    ends = [place for each in stop if each and (place := text.find(each)) >= 0]
    return text[: min(ends)] if ends else text


class Scripted:
    """Says these outputs one after another; `asked` holds the prompts it was given."""

    def __init__(self, outputs: Sequence[str]) -> None:
        if isinstance(outputs, str) or not all(isinstance(each, str) for each in outputs):
            raise ConfigError("a scripted planner is a list of texts, its outputs in order")
        self._outputs = list(outputs)
        self._lock = threading.Lock()
        self.asked: list[tuple[Said, ...]] = []

    def __call__(self, messages: Sequence[Said], stop: Sequence[str] = ()) -> str:
        with self._lock:
            self.asked.append(tuple(messages))
            if len(self.asked) > len(self._outputs):
                raise PlannerError(f"the scripted planner has {len(self._outputs)} outputs and was asked once more")
            return cut(self._outputs[len(self.asked) - 1], stop)


class Endpoint:
    """A server's `/chat/completions`.  url: its base, as "http://127.0.0.1:8000/v1".  Greedy, at most `max_tokens`."""

    def __init__(self, url: str, *, model: str = "", key: str = "", timeout: float = 120.0, max_tokens: int = 1024):
        where = origin(url)
        if key and where.scheme == "http" and not is_loopback(where.host):
            raise ConfigError(f"{url}: a key is not sent over plain http; use https://, or a server on this machine")
        self.url, self.model = url.rstrip("/"), model
        self._where, self._key, self._timeout, self._max_tokens = where, key, timeout, max_tokens

    def __call__(self, messages: Sequence[Said], stop: Sequence[str] = ()) -> str:
        body: dict[str, Any] = {"messages": list(messages), "temperature": 0, "max_tokens": self._max_tokens}
        body |= {"stop": list(stop)} if stop else {}
        answer = self._post(body | {"model": self.model or self._only_model()}, "/chat/completions")
        try:
            text = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            text = None
        if not isinstance(text, str):
            raise PlannerError(
                f"{self.url}: expected choices[0].message.content in its answer, found {str(answer)[:200]}"
            )
        return cut(text[:LONGEST], stop)

    def _only_model(self) -> str:
        """The first model that the server lists, asked once."""
        listed = self._post(None, "/models")
        try:
            self.model = str(listed["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise PlannerError(f"{self.url}/models: expected a list of models, found {str(listed)[:200]}") from None
        return self.model

    def _link(self) -> http.client.HTTPConnection:
        host, port = self._where.host, self._where.port
        if self._where.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self._timeout)
        return http.client.HTTPSConnection(host, port, timeout=self._timeout, context=ssl.create_default_context())

    def _post(self, body: Mapping[str, Any] | None, path: str) -> Any:
        """The JSON of an answer; body None: a GET.  No redirect is followed."""
        link = self._link()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        headers |= {"Authorization": f"Bearer {self._key}"} if self._key else {}
        base = urllib.parse.urlsplit(self.url).path
        try:
            link.request("GET" if body is None else "POST", base + path, None if body is None else json.dumps(body),
                         headers)  # fmt: skip
            answer = link.getresponse()
            data = answer.read(4 * LONGEST)
        except (OSError, http.client.HTTPException) as problem:
            raise Unreachable(
                f"the planner at {self.url} gives no answer: {problem or type(problem).__name__}"
            ) from problem
        finally:
            link.close()
        if answer.status != 200:
            raise PlannerError(
                f"{self.url}{path}: {answer.status} {answer.reason}: {data[:200].decode(errors='replace')}"
            )
        try:
            return json.loads(data)
        except ValueError:
            raise PlannerError(
                f"{self.url}{path}: expected JSON, found {data[:80].decode(errors='replace')!r}"
            ) from None
