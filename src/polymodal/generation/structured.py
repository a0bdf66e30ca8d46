"""Answers of a given form: a JSON schema, a regular expression, one of several texts, a grammar.

    form -> grammar -> rules(n) -> one rule for each answer, for `DecodingConstraints.allowed` or an engine's request

`llguidance` keeps the automaton; a rule follows the ids that were written and gives those that may come next, among
them an end token where the form is complete.  Forms come from strangers: their size, and the work that one step of
their automaton may take, are bounded.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import ConfigError, PolymodalError, PromptError

MAX_FORM = 1 << 16  # characters of a schema, expression or grammar
MAX_CHOICES = 1000
LEXER_FUEL = 1_000_000  # work for reading a form
STEP_FUEL = 200_000  # and at each token
MAX_STATES = 50_000
MAX_GRAMMAR = 200_000


class Structured:
    """Forms for answers of one tokenizer; making it takes about a second for a large vocabulary, so keep it.

    size: ids that the model's head predicts.  ends: ids that end an answer.
    """

    def __init__(self, tokenizer: Tokenizer, size: int, ends: Collection[int]) -> None:
        try:
            import llguidance
        except ImportError as missing:
            raise ConfigError("structured output needs llguidance: pip install 'polymodal[serve]'") from missing
        if not ends:
            raise ConfigError("structured output: this model has no token that ends an answer")
        self._library = llguidance
        self._size = size
        self._ends = torch.tensor(sorted(ends))
        self._limits = llguidance.LLParserLimits(
            initial_lexer_fuel=LEXER_FUEL,
            step_lexer_fuel=STEP_FUEL,
            max_lexer_states=MAX_STATES,
            max_grammar_size=MAX_GRAMMAR,
        )
        try:
            self._tokenizer = llguidance.LLTokenizer(tokenizer.to_json(), n_vocab=size, eos_token=sorted(ends))
        except Exception as problem:
            raise ConfigError(
                f"structured output: the tokenizer is of a kind without it ({_line(problem)})"
            ) from problem

    def json(self, schema: Mapping[str, Any] | bool) -> str:
        """The grammar of JSON that fits a schema; {"type": "object"} for any object.  Raises PromptError."""
        text = json.dumps(schema)
        self._check_size(text)
        return self._made(lambda: self._library.LLMatcher.grammar_from_json_schema(text, {"whitespace_flexible": True}))

    def regex(self, expression: str) -> str:
        """The grammar of texts that match an expression from their beginning to their end."""
        self._check_size(expression)
        return self._made(lambda: self._library.LLMatcher.grammar_from_regex(expression))

    def choice(self, texts: Sequence[str]) -> str:
        """The grammar of one of these texts."""
        if not texts or not all(texts) or len(texts) > MAX_CHOICES:
            raise PromptError(f"choice: expected 1 to {MAX_CHOICES} texts that are not empty, found {len(texts)}")
        return self.lark(f"start: {' | '.join(json.dumps(text, ensure_ascii=False) for text in texts)}")

    def lark(self, grammar: str) -> str:
        """A grammar in the notation of Lark, as llguidance reads it."""
        self._check_size(grammar)
        return self._made(lambda: self._library.LLMatcher.grammar_from_lark(grammar))

    def rules(self, grammar: str, n: int = 1) -> tuple[Rule, ...]:
        """A rule for each of n answers.  Raises PromptError for a form that is damaged, not supported or too large."""
        first = self._made(lambda: self._library.LLMatcher(self._tokenizer, grammar, limits=self._limits))
        if first.is_error():
            raise PromptError(f"the form of the answer is not supported: {_line(first.get_error())}")
        matchers = [first, *(first.deep_copy() for _ in range(n - 1))]
        return tuple(Rule(matcher, self._size, self._ends) for matcher in matchers)

    def _check_size(self, text: str) -> None:
        if len(text) > MAX_FORM:
            raise PromptError(f"the form of the answer has {len(text):,} characters, the limit is {MAX_FORM:,}")

    def _made(self, make: Any) -> Any:
        try:
            return make()
        except PolymodalError:
            raise
        except BaseException as problem:  # the library's panics are no Exceptions
            if isinstance(problem, KeyboardInterrupt | SystemExit):
                raise
            raise PromptError(f"the form of the answer is not supported: {_line(problem)}") from None


class Rule:
    """What may come next in one answer; of one answer alone, since it follows what was written."""

    def __init__(self, matcher: Any, size: int, ends: Tensor) -> None:
        self._matcher, self._size, self._ends = matcher, size, ends
        self._taken = 0

    def __call__(self, written: Sequence[int]) -> Tensor:
        """int64 [n].  Raises PromptError when the form asks for more work than is allowed."""
        new = list(written[self._taken :])
        self._taken = len(written)
        if new and not self._matcher.is_stopped() and not self._matcher.consume_tokens(new):
            raise PromptError(f"the form of the answer cannot be followed: {_line(self._matcher.get_error())}")
        if self._matcher.is_stopped():
            return self._ends
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise PromptError(f"the form of the answer cannot be followed: {_line(self._matcher.get_error())}")
        return torch.from_numpy(np.flatnonzero(np.unpackbits(bits, bitorder="little")[: self._size]))


def _line(problem: object) -> str:
    return " ".join(str(problem).split())[:200]
