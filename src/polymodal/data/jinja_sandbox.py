"""Chat templates of checkpoints: programs of strangers, run with what they may touch listed and what they use bounded.

    source -> Jinja's immutable sandbox, compiled with a check in every loop, list and concatenation
           -> a function of variables -> text                      (`jinja_values.py` has the operations and the limits)

What a template may name is on the lists of this module: methods of text, lists and tables, filters, tests and globals
that published templates use; everything else is refused or undefined, whatever it is called.  Values are plain data
alone (text, numbers, lists, tables): no object of the program is ever handed in.
Traps: a published template expects blocks to take the line end behind them (`trim_blocks`), the tags `generation` and
`break`, JSON without HTML escapes, and `raise_exception`.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace
from jinja2.visitor import NodeTransformer

from polymodal.data import jinja_values as values
from polymodal.data.generation_marks import GENERATION_END, GENERATION_START
from polymodal.data.jinja_values import Budget

MAX_SOURCE = 1 << 16  # published templates are below 2 ** 15; a text of this length compiles in a few seconds
MAX_RANGE = 100_000

TEXT_METHODS = frozenset({
    "capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii", "isdecimal",
    "isdigit", "islower", "isnumeric", "isspace", "istitle", "isupper", "lower", "lstrip", "partition", "removeprefix",
    "removesuffix", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip",
    "swapcase", "title", "upper",
})  # fmt: skip
METHODS: Mapping[type, frozenset[str]] = {
    str: TEXT_METHODS, dict: frozenset({"get", "items", "keys", "values"}), list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}), LoopContext: frozenset({"cycle", "changed"}),
    Cycler: frozenset({"next", "reset"}),
}  # fmt: skip
BOUNDED_METHODS: Mapping[str, Callable[..., Any]] = {
    "format": values.format_braces, "join": lambda separator, texts: values.join(texts, separator),
    "replace": values.replace,
}  # fmt: skip
LOOP = frozenset({
    "index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "depth0", "previtem", "nextitem",
})  # fmt: skip
FILTERS = frozenset({
    "abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "last", "length",
    "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "select", "selectattr", "sort", "title",
    "trim", "unique", "upper", "wordcount",
})  # fmt: skip
BOUNDED_FILTERS: Mapping[str, Callable[..., Any]] = {
    "e": lambda value: html.escape(values.text_of(value)), "escape": lambda value: html.escape(values.text_of(value)),
    "format": lambda pattern, *args: values.format_percent(pattern, args), "indent": values.indent,
    "join": lambda texts, d="", attribute=None: values.join(_attributes(texts, attribute), d),
    "replace": values.replace, "round": values.round_number, "safe": values.text_of, "string": values.text_of,
    "sum": values.sum_numbers, "tojson": values.to_json,
}  # fmt: skip
REFUSED = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends, nodes.Block, nodes.ImportedName,
           nodes.InternalName, nodes.EnvironmentAttribute, nodes.ExtensionAttribute, nodes.ContextReference,
           nodes.DerivedContextReference)  # fmt: skip

NOTHING = object()  # an attribute that is not there

_budget: ContextVar[Budget] = ContextVar("budget of the template that runs")


class Refusal(TemplateError):
    """What a template says with raise_exception."""


class _Function:
    """The only functions, beside macros and loops, that a template can call."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **named: Any) -> Any:
        return self._function(*args, **named)


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`: what the model writes."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        marks = [nodes.Output([nodes.TemplateData(mark)]) for mark in (GENERATION_START, GENERATION_END)]
        return nodes.Scope([marks[0], *body, marks[1]]).set_lineno(line)


class _Checks(NodeTransformer):
    """Puts a check where compiled code would work without calling the environment."""

    def generic_visit(self, node: nodes.Node, *args: Any, **named: Any) -> nodes.Node:
        if isinstance(node, REFUSED):
            raise SecurityError(f"it uses {type(node).__name__.lower()}")
        return super().generic_visit(node, *args, **named)

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("count_step", node), lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _call("concatenate", node, *node.nodes)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _call("checked", node, node)

    visit_Dict: Any = visit_List

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _call("checked", node, node) if node.ctx == "load" else node


def _call(name: str, at: nodes.Node, *args: nodes.Expr) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), list(args), [], None, None, lineno=at.lineno)


class _Sandbox(ImmutableSandboxedEnvironment):
    """The environment: every name, call and operation of a template comes through here."""

    intercepted_binops = frozenset(values.OPERATIONS)

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, finalize=values.text_of,
                         extensions=[loopcontrols, _Generation])  # fmt: skip
        own = {name: self.filters[name] for name in FILTERS}
        self.filters = {name: _counted(each) for name, each in (own | dict(BOUNDED_FILTERS)).items()}
        self.globals = {name: _Function(each) for name, each in GLOBALS.items()}
        self.count_step = _Function(lambda: None)
        self.concatenate = _Function(lambda *parts: values.concatenate(parts))
        self.checked = _Function(lambda value: value)

    @staticmethod
    def concat(parts: Iterable[str]) -> str:
        """The pieces of a finished text or of a macro, as they come."""
        budget, made, length = _budget.get(), [], 0
        for part in parts:
            budget.step()
            length += len(part)
            values.check_size(length)
            made.append(part)
        budget.make(length)
        return "".join(made)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, Undefined):
            return obj._fail_with_undefined_error()
        found = self._attribute(obj, attribute)
        if found is NOTHING and isinstance(obj, dict):
            found = obj.get(attribute, NOTHING)
        return self.undefined(obj=obj, name=attribute) if found is NOTHING else found

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, Undefined):
            return obj._fail_with_undefined_error()
        if isinstance(obj, dict | list | tuple | str | range):
            try:
                return obj[argument]
            except (TypeError, LookupError):
                pass
        found = self._attribute(obj, argument) if isinstance(argument, str) else NOTHING
        return self.undefined(obj=obj, name=argument) if found is NOTHING else found

    def _attribute(self, obj: Any, name: str) -> Any:
        """A method or property on the lists, NOTHING for any other."""
        if name.startswith("_"):
            return NOTHING
        if isinstance(obj, Namespace):
            return _names(obj).get(name, NOTHING)
        if isinstance(obj, str) and name in BOUNDED_METHODS:
            return _Function(lambda *args, **named: BOUNDED_METHODS[name](obj, *args, **named))
        for kind, names in METHODS.items():
            if isinstance(obj, kind) and name in names:
                return _Function(getattr(obj, name))
        if (isinstance(obj, LoopContext) and name in LOOP) or (isinstance(obj, Cycler) and name == "current"):
            return getattr(obj, name)
        return NOTHING

    def call(__self, __context: Context, __obj: Any, *args: Any, **named: Any) -> Any:
        if isinstance(__obj, Undefined):
            __obj._fail_with_undefined_error()
        if not isinstance(__obj, _Function | Macro | LoopContext | Joiner):
            raise SecurityError(f"it calls a {type(__obj).__name__}")
        budget = _budget.get()
        budget.step()
        budget.depth += 1
        if budget.depth > values.MAX_DEPTH:
            raise SecurityError(f"its calls go deeper than {values.MAX_DEPTH}")
        try:
            return _checked(__context.call(__obj, *args, **named))
        finally:
            budget.depth -= 1

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        for side in (left, right):
            if isinstance(side, Undefined):
                side._fail_with_undefined_error()
        _budget.get().step()
        return _checked(values.OPERATIONS[operator](left, right))


def _checked(made: Any) -> Any:
    """What an operation gave, counted; iterators and what Jinja itself made pass as they are."""
    if isinstance(made, str | int | float | list | tuple | dict):
        _budget.get().make(values.printed_size(made))
    return made


def _counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that counts; what Jinja notes on its function stays."""

    @wraps(function)
    def run(*args: Any, **named: Any) -> Any:
        _budget.get().step()
        made = function(*args, **named)
        return _count_each(made) if isinstance(made, Iterator) else _checked(made)

    return run


def _count_each(items: Iterator[Any]) -> Iterator[Any]:
    for item in items:
        _budget.get().step()
        yield item


def _attributes(items: Iterable[Any], attribute: str | None) -> Iterable[Any]:
    return items if attribute is None else [item[attribute] for item in items if isinstance(item, dict)]


def _names(space: Namespace) -> Mapping[str, Any]:
    found: Mapping[str, Any] = object.__getattribute__(space, "_Namespace__attrs")
    return found


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > MAX_RANGE:
        raise SecurityError(f"it counts to {len(numbers)}; the limit is {MAX_RANGE}")
    return numbers


def _refuse(message: Any) -> None:
    raise Refusal(values.text_of(message))


def _now(format: str) -> str:
    if len(format) > values.MAX_FORMAT or any(letter.isdigit() for letter in format):
        raise SecurityError("it writes a date with a format that is too long or has numbers in it")
    return datetime.now().strftime(format)


def _joiner(separator: str = ", ") -> Joiner:
    return Joiner(values.text_of(separator))


GLOBALS: Mapping[str, Callable[..., Any]] = {
    "range": _range, "dict": dict, "namespace": Namespace, "cycler": Cycler, "joiner": _joiner,
    "raise_exception": _refuse, "strftime_now": _now,
}  # fmt: skip


def compiled(source: str) -> Callable[..., str]:
    """The template as a function of its variables, which must be plain data, called with keywords.

    Raises: SecurityError for a source that is too long or uses what it may not, other errors of Jinja and Python for
    one that is no template; the function raises Refusal, SecurityError when a limit is reached, and any error that
    the template makes.
    """
    if len(source) > MAX_SOURCE:
        raise SecurityError(f"it has {len(source)} characters; the limit is {MAX_SOURCE}")
    sandbox = _Sandbox()
    tree = _Checks().visit(sandbox.parse(source))
    template = sandbox.template_class.from_code(sandbox, sandbox.compile(tree), sandbox.make_globals(None))

    def run(**variables: Any) -> str:
        token = _budget.set(Budget())
        try:
            return sandbox.concat(template.root_render_func(template.new_context(variables)))
        finally:
            _budget.reset(token)

    return run
