"""The restricted interpreter says what Python says, wherever it says anything: examples, and programs at random."""

import ast
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polymodal.agents.interpreter.errors import ProgramError
from polymodal.agents.interpreter.evaluate import run
from polymodal.agents.interpreter.language import parse
from polymodal.agents.interpreter.meter import Meter, ProgramLimits
from polymodal.agents.interpreter.values import Exposed, HostFunction, admit, size_of
from polymodal.errors import ConfigError

SMALL = ProgramLimits(steps=20_000, seconds=5.0, cells=200_000)
PROGRAMS = (
    "return [i * i for i in range(x) if i % 2 == 0]",
    "y = {}\nfor i, c in enumerate('hello'):\n    y[c] = y.get(c, 0) + i\nreturn sorted(y.items())",
    "y = [3, 1, 2]\ny.sort(key=lambda v: -v)\nreturn y, y.index(1), y[::-1], y[-1], y[:2]",
    "def f(n, k=2):\n    return n if n < 2 else f(n - 1) + f(n - k)\nreturn [f(i) for i in range(x)]",
    "total = 0\nwhile True:\n    total += x\n    if total > 30:\n        break\n"
    "    if total % 2:\n        continue\nreturn total",
    "for i in range(3):\n    if i == 5:\n        break\nelse:\n    return 'none broke'",
    "a, (b, c) = 1, [2, 3]\na, b = b, a\nreturn a, b, c",
    "return f'{x:>6}|{x / 3:.2f}|{x!r}|{\"a\"!s:<4}|{x:+d}|{x:{x}}'",
    "return 'A,b c'.lower().replace(',', ' ').split(), '-'.join(['a', 'b']), 'abc'.find('c'), 'x' in 'xyz'",
    "return 1 < x <= 7 and not x == 3, x or 5, None is None, x if x > 100 else -x",
    "y = [[0] * 2 for i in range(2)]\ny[1][0] += 5\ny[0] = y[0] + [9]\nreturn y",
    "return max([1, 5, 3]), min(4, 2, 8), max(['a', 'bbb'], key=len), sum([1, 2], 3), abs(-2.5), round(2.567, 2)",
    "return math.sqrt(16), math.floor(2.7), math.pi, any([0, 1]), all([]), len({1, 1, 2}), tuple(reversed([1, 2]))",
    "return {k: v for k, v in zip('ab', [1, 2])}, {1, 2} & {2, 3}, set([1]) | {2}, [*map(str, [1])] if False else 0",
    "return list(map(lambda v: v + 1, [1, 2])), list(filter(lambda v: v > 1, [1])), isinstance(x, int), str([1, 'a'])",
    "def outer():\n    y = [1]\n    def inner(z):\n        return y[0] + z\n    return inner\nreturn outer()(4)",
    "import math\nfrom typing import List\ny: int = 3\nz: List[int]\nreturn y + math.ceil(0.2)",
    "return x // 2, x % 3, x ** 2, x << 2, x >> 1, x & 3, x | 8, x ^ 1, ~x, -x, +x",
    "return int('12'), float('1.5'), int(3.9), bool([]), str(None), list('ab'), dict({1: 2})",
    "return [a + b for a in 'xy' for b in 'zw' if b != 'z']",
)
ALLOWED = tuple(each for each in PROGRAMS if "[*map" not in each)


def whole(body: str) -> str:
    return "def execute_command(x):\n" + "\n".join(f"    {line}" for line in body.splitlines())


def python(source: str, x: int):
    """What Python itself gives."""
    names = {"math": math}
    exec(source, names)
    return names["execute_command"](x)


@pytest.mark.parametrize("body", ALLOWED)
def test_it_gives_what_python_gives(body: str) -> None:
    source = whole(body)
    assert run(source, "execute_command", (7,), {}, SMALL) == python(source, 7)


NUMBERS = st.integers(-9, 9).map(str) | st.sampled_from(["x", "y[0]", "y[1]", "len(y)", "2.5", "sum(y)"])
OPERATORS = st.sampled_from(["+", "-", "*", "/", "//", "%", "<", "==", ">=", "and", "or", "**"])
EXPRESSIONS = st.recursive(
    NUMBERS,
    lambda inner: (
        st.tuples(inner, OPERATORS, inner).map(lambda p: f"({p[0]} {p[1]} {p[2]})")
        | inner.map(lambda e: f"(-{e})")
        | st.tuples(inner, inner, inner).map(lambda p: f"({p[0]} if {p[1]} else {p[2]})")
        | st.lists(inner, min_size=1, max_size=3).map(lambda p: f"max([{', '.join(p)}])")
        | inner.map(lambda e: f"sum([v + {e} for v in y])")
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(EXPRESSIONS, st.integers(-20, 20))
def test_an_expression_at_random_gives_what_python_gives(expression: str, x: int) -> None:
    source = whole(f"y = [x, 3, x * 2]\nreturn {expression}")
    try:
        expected = python(source, x)
    except Exception as problem:
        expected = type(problem)
    try:
        found = run(source, "execute_command", (x,), {}, SMALL)
    except ProgramError as problem:
        # What Python refuses is refused here; numbers that grow out of bounds and complex ones are refused here alone.
        refused = isinstance(expected, type | complex)
        assert refused or "bits" in str(problem) or "real number" in str(problem), (expression, str(problem))
    else:
        assert found == expected or (found != found and expected != expected)


class Thing(Exposed):
    shown = frozenset(("name", "ask"))
    name, hidden = "thing", "hidden"

    def ask(self, text: str = "") -> str:
        return f"asked {text}"


WORDS = st.sampled_from((
    "x", "x.name", "x.ask", "x.hidden", "x.__class__", "host", "host()", "().__class__", "y", "y.append(y)", "math",
    "len", "math.pi", "lambda: x", "(lambda z: z)", "'a'", "'a' * 9", "[x]", "{'k': x}", "{1}", "range(9)", "str",
    "str(x)", "f'{x}'", "f'{y!r}'", "int", "eval", "open", "getattr", "__import__", "type(x)", "[i for i in y]",
    "y.sort", "1 << 9", "9 ** 9", "None", "(1, 2)", "y[0]", "y[:]", "x[0]", "sorted(y)", "''.join",
    "'{0.hidden}'.format(x)", "{**y}", "b'1'", "1j", "...",
))  # fmt: skip
LINES = st.recursive(
    WORDS.map(lambda a: f"y = {a}")
    | st.tuples(WORDS, WORDS).map(lambda p: f"y = ({p[0]})({p[1]})")
    | st.tuples(WORDS, WORDS).map(lambda p: f"return [{p[0]}, {p[1]}]")
    | st.tuples(WORDS, WORDS).map(lambda p: f"({p[0]})[{p[1]}] = y")
    | st.tuples(WORDS, OPERATORS, WORDS).map(lambda p: f"y = ({p[0]}) {p[1]} ({p[2]})")
    | st.sampled_from(
        ["import os", "del x", "x.name = 1", "raise x", "global y", "y += y", "pass", "break", "return y"]
    ),
    lambda inner: (
        st.tuples(WORDS, inner).map(lambda p: f"for z in {p[0]}:\n" + indented(p[1]))
        | st.tuples(WORDS, inner).map(lambda p: f"if {p[0]}:\n" + indented(p[1]))
        | st.tuples(WORDS, inner).map(lambda p: f"while {p[0]}:\n" + indented(p[1]))
        | inner.map(lambda line: "def f(q=1):\n" + indented(line) + "\ny = f(y)")
    ),
    max_leaves=3,
)


def indented(lines: str) -> str:
    return "\n".join(f"    {line}" for line in lines.splitlines())


@settings(max_examples=400, deadline=None)
@given(st.lists(LINES, min_size=1, max_size=5))
def test_a_program_at_random_gives_a_plain_value_or_is_refused(lines: list[str]) -> None:
    source = whole("y = [1, 2]\n" + "\n".join(lines))
    thing = Thing()
    limits = ProgramLimits(steps=3_000, seconds=5.0, cells=50_000)
    try:
        found = run(source, "execute_command", (thing,), {"host": lambda *a, **k: "done"}, limits)
    except ProgramError as problem:
        assert "\n" not in str(problem) and thing.hidden not in str(problem).replace("has no 'hidden'", "")
    else:
        admit(found, "it")
        assert thing.hidden not in str(found)
    assert vars(thing) == {} and Thing.name == "thing"


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=80) | st.text(alphabet="def execute_command(x): return\n    [](){}'\"\\#._lambda=*@", max_size=120)
)
def test_any_text_is_read_or_refused(source: str) -> None:
    try:
        functions = parse(source)
    except ProgramError:
        return
    assert all(isinstance(node, ast.FunctionDef) for node in functions.values())


def test_limits_and_sizes_are_checked() -> None:
    with pytest.raises(ConfigError, match="above 0"):
        ProgramLimits(steps=0)
    meter = Meter(ProgramLimits(calls=1))
    meter.host_call()
    with pytest.raises(ProgramError, match="more than 1 times"):
        meter.host_call()
    assert size_of([1, (2, "a" * 80)], 100) == 15 and repr(HostFunction("f", len)) == "<function f>"


def test_a_program_may_not_reach_the_loop_of_its_caller() -> None:
    source = "def f():\n    break\ndef execute_command(x):\n    for i in range(3):\n        f()\n    return 1"
    with pytest.raises(ProgramError, match="break outside a loop"):
        run(source, "execute_command", (1,), {}, SMALL)
