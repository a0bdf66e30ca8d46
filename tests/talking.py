"""Conversations with any model through the engine, as `Model.chat` has them: for tests of what a turn computes."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from polymodal.data.messages import conversation
from polymodal.data.processor import Encoded, Processor
from polymodal.engine.client import Client
from polymodal.engine.engine import Engine
from polymodal.engine.prefix_cache import IdleLimits
from polymodal.engine.request import Request
from polymodal.generation.output import GREEDY, Piece
from polymodal.generation.sampling import SamplingOptions


class Talk:
    """cached: prompt tokens that the last answer took from what was computed before."""

    def __init__(
        self,
        network: Any,
        maker: Processor,
        options: SamplingOptions = GREEDY,
        ends: Sequence[int] = (),
        **limits: int,
    ) -> None:
        self.client = Client(Engine(network, maker, ends=ends))
        self.client.limit(IdleLimits(**limits))
        self.options = options
        self.cached = 0

    @property
    def engine(self) -> Engine:
        return self.client.engine

    def encode(self, messages: Any) -> Encoded:
        return self.engine.encode(conversation(messages))

    def write(self, encoded: Encoded, **changes: Any) -> Iterator[Piece]:
        request = Request(encoded=encoded, options=replace(self.options, **changes))
        for _, event in self.client.events([request]):
            if event.error is not None:
                raise event.error
            self.cached = event.cached_tokens
            yield event.piece

    def ids(self, messages: Any, **changes: Any) -> tuple[int, ...]:
        return tuple(piece.id for piece in self.write(self.encode(messages), **changes))

    def say(self, history: list, *content: Any, **changes: Any) -> tuple[int, ...]:
        """The answer to one message more; both are in the history then."""
        from polymodal.data.messages import user

        history.append(user(*content))
        pieces = list(self.write(self.encode(history), **changes))
        history.append({"role": "assistant", "content": "".join(piece.text for piece in pieces)})
        return tuple(piece.id for piece in pieces)
