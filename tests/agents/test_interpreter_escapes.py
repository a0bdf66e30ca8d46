"""Programs that try to get out of the restricted interpreter, or to eat the machine: every one is refused, in time."""

import builtins
import math
import time

import pytest

from polymodal.agents.interpreter.errors import LimitError, ProgramError
from polymodal.agents.interpreter.evaluate import run
from polymodal.agents.interpreter.meter import ProgramLimits
from polymodal.agents.interpreter.values import Exposed


class Secret(Exposed):
    """An object of the host with things that a program must not reach."""

    shown = frozenset(("name", "ask"))
    name = "patch"
    token = "the secret"

    def ask(self, question: str = "") -> str:
        return f"asked {question}"

    def wipe(self) -> None:
        raise AssertionError("a hidden method was called")


LIMITS = ProgramLimits(steps=50_000, seconds=5.0, cells=500_000)


def attempt(body: str, source: str = ""):
    program = source or "def execute_command(x):\n" + "\n".join(f"    {line}" for line in body.splitlines())
    return run(program, "execute_command", (Secret(),), {"host": lambda *given: "done"}, LIMITS)


ESCAPES = {
    # Python's own machinery by attributes
    "class of a tuple": "return ().__class__.__base__.__subclasses__()",
    "class of a text": "return ''.__class__.__mro__[1].__subclasses__()",
    "globals of a function": "return host.__globals__",
    "code of a lambda": "return (lambda: 0).__code__",
    "closure of a method": "return x.ask.__func__.__globals__",
    "self of a method": "return x.ask.__self__",
    "dict of an object": "return x.__dict__",
    "hidden attribute": "return x.token",
    "hidden method": "return x.wipe()",
    "reduce": "return x.__reduce_ex__(2)",
    "init of the class": "return x.__init__.__globals__['__builtins__']",
    "name in other letters": "return x.__ｃlass__",
    "underscore alone": "_ = 1\nreturn _",
    "dunder name": "return __builtins__",
    "dunder import": "return __import__('os').system('id')",
    "name of the module": "return __name__",
    "attribute of a host function": "return host.name",
    "call of a host function": "return host.call('x')",
    "attribute of math": "return math.__loader__",
    "math beyond what is shown": "return math.factorial(10)",
    "frame of a generator": "return (i for i in [1]).gi_frame.f_back.f_globals",
    "error with a traceback": "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    return e.__traceback__",
    # builtins that are not there
    "eval": "return eval('1')",
    "exec": "return exec('y = 1')",
    "compile": "return compile('1', 'a', 'eval')",
    "open": "return open('/etc/passwd').read()",
    "getattr": "return getattr(x, 'to' + 'ken')",
    "setattr": "return setattr(x, 'name', 1)",
    "vars": "return vars(x)",
    "dir": "return dir(x)",
    "type": "return type(x)",
    "type of three": "return type('T', (), {})",
    "globals()": "return globals()",
    "locals()": "return locals()",
    "object": "return object()",
    "super": "return super()",
    "input": "return input()",
    "breakpoint": "return breakpoint()",
    "help": "return help()",
    "id": "return id(x)",
    "memoryview": "return memoryview(b'')",
    "bytearray": "return bytearray(10)",
    "classmethod": "return classmethod(host)",
    "iter": "return iter([1])",
    "next": "return next([1])",
    "quit": "return quit()",
    # statements
    "import": "import os\nreturn os.system('id')",
    "import from": "from os import system\nreturn system('id')",
    "import of a part": "import math.os",
    "import under a name": "import math as m\nreturn m.pi",
    "import of all": "from math import *\nreturn 1",
    "relative import": "from . import x",
    "class": "class A:\n    pass\nreturn A",
    "metaclass": "class A(metaclass=host):\n    pass",
    "decorator": "@host\ndef f():\n    return 1\nreturn f()",
    "with": "with x as y:\n    return y",
    "del": "del x",
    "global": "global host\nhost = 1",
    "nonlocal": "def f():\n    nonlocal x\n    x = 1\nreturn f()",
    "raise": "raise x",
    "assert": "assert 0, x",
    "yield": "yield x",
    "await": "async def f():\n    await x\nreturn f()",
    "match": "match x:\n    case 1:\n        return 1",
    "walrus": "return (y := 1)",
    "set an attribute": "x.name = 'other'",
    "set a method": "x.ask = host",
    "set by a loop": "for x.name in ['a']:\n    pass",
    "set by unpacking": "x.name, y = 1, 2",
    "star": "return host(*[1, 2])",
    "two stars": "return host(**{'__class__': 1})",
    "star arguments": "def f(*given):\n    return given\nreturn f(1)",
    "dunder by keyword": "return host(__class__=1)",
    "dunder argument": "def f(__class__):\n    return 1\nreturn f(1)",
    "bytes": "return b'x'",
    "ellipsis": "return ...",
    "complex": "return 1j",
    "complex by a root": "return (-8) ** 0.5",
    "matrix product": "return x @ x",
    # attributes by formats
    "format": "return '{0.token}'.format(x)",
    "format map": "return '{x.token}'.format_map({'x': x})",
    "percent": "return '%s' % x",
    "spec with an attribute": "return f'{x:{x.token}}'",
    "spec that is wide": "return f'{1:>1000000000}'",
    "spec that is precise": "return f'{1.5:.999999}'",
    "translate": "return 'a'.translate({97: 'b' * 10})",
    "encode": "return 'a'.encode()",
    # functions of a program to the host, or out of it
    "a lambda to the host": "return host(lambda: 1)",
    "a function as the result": "return lambda: x",
    "a host function as the result": "return host",
    "a host function in a list": "return [host]",
    "a range as the result": "return range(3)",
    "sort with something else": "return sorted([1, 2], key=x)",
    "call of a number": "return 3()",
    "call of the object": "return x()",
    "arithmetic on the object": "return x + 1",
    "subscript of the object": "return x[0]",
    "items of the object": "return [each for each in x]",
}
BOMBS = {
    "for ever": "while True:\n    pass",
    "for ever in a loop": "for i in range(10**12):\n    pass",
    "calls itself": "def f():\n    return f()\nreturn f()",
    "lambda calls itself": "f = [0]\nf[0] = lambda: f[0]()\nreturn f[0]()",
    "power": "return 9 ** 9 ** 9",
    "power of one": "return 2 ** 10**9",
    "shift": "return 1 << 10**9",
    "product of numbers": "y = 3\nwhile True:\n    y = y * y",
    "long text": "return 'x' * 10**10",
    "long list": "return [0] * 10**10",
    "long tuple": "return (0,) * 10**9",
    "doubled text": "y = 'x'\nwhile True:\n    y = y + y",
    "doubled list": "y = [1]\nwhile True:\n    y = y + y",
    "appended": "y = []\nwhile True:\n    y.append('x' * 1000)",
    "extended by itself": "y = [1]\nwhile True:\n    y.extend(y)",
    "list of a range": "return list(range(10**12))",
    "sum of a range": "return sum(range(10**12))",
    "sorted range": "return sorted(range(10**9))",
    "greatest of a range": "return max(range(10**12))",
    "replace": "return ('a' * 1000).replace('', 'b' * 10000)",
    "join": "return ('b' * 10000).join(['a'] * 10000)",
    "comprehension": "return [[[i for i in range(999)] for j in range(999)] for k in range(999)]",
    "doubled by reference, compared": "a, b = [0], [0]\nfor i in range(60):\n    a, b = [a, a], [b, b]\nreturn a == b",
    "doubled by reference, printed": "a = [0]\nfor i in range(60):\n    a = [a, a]\nreturn str(a)",
    "doubled by reference, in an f-string": "a = [0]\nfor i in range(60):\n    a = [a, a]\nreturn f'{a}'",
    "doubled by reference, hashed": "a = (0,)\nfor i in range(60):\n    a = (a, a)\nreturn {a: 1}",
    "doubled by reference, in a set": "a = (0,)\nfor i in range(60):\n    a = (a, a)\nreturn {a}",
    "doubled by reference, found": "a = [0]\nfor i in range(60):\n    a = [a, a]\nreturn a in [a, a]",
    "doubled by reference, as the result": "a = [0]\nfor i in range(60):\n    a = [a, a]\nreturn a",
    "a list of itself": "a = []\na.append(a)\nreturn str(a)",
    "a list of itself, as the result": "a = []\na.append(a)\nreturn a",
    "rounded": "return round(5, -10**9)",
    "a large whole number": "return int('9' * 4000)",
    "many keys": "return {i: i for i in range(10**6)}",
    "host for ever": "while True:\n    host()",
    "zip of ranges": "return zip(range(10**9), range(10**9))",
    "slices": "y = [0] * 10000\nwhile True:\n    z = y[:]",
    "texts by upper": "y = 'x' * 90000\nwhile True:\n    z = y.upper()",
    "deep list": "a = []\nfor i in range(30000):\n    a = [a]\nreturn a == a",
}
SOURCES = {
    "no function": "x = 1",
    "another function": "def other(x):\n    return 1",
    "code beside functions": "print(1)\ndef execute_command(x):\n    return 1",
    "no Python": "def execute_command(x) return 1",
    "nothing": "",
    "null": "def execute_command(x):\n    return '\0'",
    "a million characters": "#" * 10**6,
    "deep signs": "def execute_command(x):\n    return " + "-" * 9000 + "1",
    "deep not": "def execute_command(x):\n    return " + "not " * 4000 + "1",
    "deep brackets": "def execute_command(x):\n    return " + "[" * 150 + "]" * 150,
    "deep lambdas": "def execute_command(x):\n    return " + "lambda:" * 1000 + "1",
    "deep attributes": "def execute_command(x):\n    return x" + ".ask" * 4000,
    "a long sum": "def execute_command(x):\n    return " + "+".join("1" * 4000),
    "a default that is too much": "def execute_command(x, y=[0] * 10**10):\n    return 1",
    "too few arguments": "def execute_command():\n    return 1",
    "too many needed": "def execute_command(x, y):\n    return 1",
    "type parameters": "def execute_command[T](x):\n    return 1",
}


def test_there_are_many() -> None:
    assert len(ESCAPES) >= 40 and len(BOMBS) >= 30


@pytest.mark.parametrize("body", ESCAPES.values(), ids=list(ESCAPES))
def test_an_escape_is_refused(body: str) -> None:
    before = set(vars(builtins)), Secret.name, Secret.ask
    with pytest.raises(ProgramError) as refused:
        attempt(body)
    assert "the secret" not in str(refused.value) and "\n" not in str(refused.value)
    assert (set(vars(builtins)), Secret.name, Secret.ask) == before and math.pi > 3


@pytest.mark.parametrize("body", BOMBS.values(), ids=list(BOMBS))
def test_a_bomb_is_stopped_in_time(body: str) -> None:
    begin = time.monotonic()
    with pytest.raises(ProgramError) as refused:
        attempt(body)
    assert isinstance(refused.value, LimitError) or "more than" in str(refused.value) or "round" in str(refused.value)
    assert time.monotonic() - begin < 15


@pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))
def test_a_source_is_refused(source: str) -> None:
    with pytest.raises(ProgramError):
        attempt("", source=source or "\n")


def test_what_the_host_gives_is_looked_at() -> None:
    source = "def execute_command(x):\n    return give()"
    for value in (open, object(), [type], {"a": {1: math}}, b"x", 1j, (lambda: 0,)):
        with pytest.raises(ProgramError, match="cannot hold"):
            run(source, "execute_command", (Secret(),), {"give": lambda value=value: value}, LIMITS)
    assert run(source, "execute_command", (Secret(),), {"give": lambda: [1, {"a": (None, True)}]}, LIMITS) == [
        1, {"a": (None, True)}
    ]  # fmt: skip


def test_errors_name_the_line_and_a_failing_host_is_told() -> None:
    def fails() -> None:
        raise ValueError("the model is out of order")

    source = "def execute_command(x):\n    y = 1\n    return fails()"
    with pytest.raises(ProgramError, match=r"line 3: ValueError: the model is out of order"):
        run(source, "execute_command", (Secret(),), {"fails": fails}, LIMITS)
