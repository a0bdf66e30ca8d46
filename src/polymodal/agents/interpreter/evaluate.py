"""Running a checked program: a walk over its tree with names of its own.

    run(source, "execute_command", (patch,), {"ImagePatch": make}, ProgramLimits()) -> the value that the function gives

No name of Python is in reach: names are looked up in the program, in what the host gives, and in functions.py.
Attributes exist of `Exposed` objects (those they show) and as the methods in values.py.  Every node is one step. Traps:
a list that a loop goes through is copied, so a program that appends to it sees only what was there before; `is`
compares numbers and texts as Python does.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from polymodal.agents.interpreter.errors import LimitError, ProgramError
from polymodal.agents.interpreter.functions import Functions, MathModule
from polymodal.agents.interpreter.language import parse
from polymodal.agents.interpreter.meter import Meter, ProgramLimits
from polymodal.agents.interpreter.operations import UNARY, Operations
from polymodal.agents.interpreter.values import Exposed, Function, HostFunction, admit, word
from polymodal.errors import PolymodalError

PYTHONS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError)


class Scope:
    """Names of one call, and those around it."""

    __slots__ = ("_around", "names")

    def __init__(self, names: dict[str, Any], around: Scope | None = None) -> None:
        self.names, self._around = names, around

    def find(self, name: str) -> Any:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope._around
        raise ProgramError(f"there is no name {name!r} in a program")


class _Leave(Exception):
    """break, continue or return, on their way."""

    def __init__(self, kind: str, value: Any = None) -> None:
        self.kind, self.value = kind, value


def run(source: str, entry: str, arguments: Sequence[Any], names: Mapping[str, Any], limits: ProgramLimits) -> Any:
    """The value of one function of a program.  names: values, `Exposed` objects, or functions of the host.

    Raises ProgramError (LimitError) with the line; nothing else comes out of a program.
    """
    found = parse(source)
    if entry not in found:
        raise ProgramError(f"the program has no function {entry}; it has {', '.join(found) or 'none'}")
    meter = Meter(limits)
    walk = Evaluator(meter)
    given = {name: HostFunction(name, each) if callable(each) else admit(each, name) for name, each in names.items()}
    base = Scope({**walk.own, "math": MathModule(), **given})
    program = Scope({name: Function(name, node, base) for name, node in found.items()}, base)
    program.names = {name: Function(name, node, program) for name, node in found.items()}
    value = walk.guarded(lambda: walk.call(program.names[entry], *arguments))
    return admit(value, entry)


class Evaluator:
    """One run."""

    def __init__(self, meter: Meter) -> None:
        self.meter, self.operations = meter, Operations(meter, self.call)
        self.own = Functions(self.operations, self.call).table()
        self.line = 0

    def guarded(self, work: Callable[[], Any]) -> Any:
        """Whatever goes wrong in a program, as a ProgramError with its line."""
        try:
            return work()
        except (RecursionError, MemoryError):
            raise LimitError(f"line {self.line}: the program calls itself too deep or needs too much memory") from None
        except LimitError as problem:
            raise LimitError(f"line {self.line}: {problem}") from problem
        except PolymodalError as problem:
            raise ProgramError(f"line {self.line}: {problem}") from problem
        except PYTHONS as problem:
            raise ProgramError(f"line {self.line}: {type(problem).__name__}: {str(problem)[:200]}") from problem

    def call(self, function: Any, *given: Any, **named: Any) -> Any:
        """Call a function of the program or of the host."""
        if isinstance(function, HostFunction):
            return self._call_host(function, given, named)
        if not isinstance(function, Function):
            raise ProgramError(f"{word(function)} cannot be called")
        scope = Scope(self._bound(function, given, named), function.scope)
        self.meter.depth += 1
        if self.meter.depth > self.meter.limits.depth:
            raise LimitError(f"the program calls itself more than {self.meter.limits.depth} deep")
        try:
            if isinstance(function.node, ast.Lambda):
                return self.value(function.node.body, scope)
            self._block(function.node.body, scope)
        except _Leave as leave:
            if leave.kind != "return":
                raise ProgramError(f"{leave.kind} outside a loop") from None
            return leave.value
        finally:
            self.meter.depth -= 1
        return None

    def _call_host(self, function: HostFunction, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if function.own:
            self.meter.step()
            return function.call(*given, **named)
        if any(isinstance(each, Function | HostFunction) for each in (*given, *named.values())):
            raise ProgramError(f"{function.name} takes no functions")
        self.meter.host_call()
        return admit(function.call(*given, **named), function.name)

    def _bound(self, function: Function, given: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call by their names."""
        wanted = function.node.args
        names = [each.arg for each in (*wanted.posonlyargs, *wanted.args)]
        if len(given) > len(names):
            raise ProgramError(f"{function.name} takes {len(names)} arguments, found {len(given)}")
        bound = dict(zip(names, given, strict=False))
        known = {*names, *(each.arg for each in wanted.kwonlyargs)}
        for name, value in named.items():
            if name in bound or name not in known:
                raise ProgramError(
                    f"{function.name}: the argument {name!r} is {'given twice' if name in bound else 'unknown'}"
                )
            bound[name] = value
        late = dict(zip(names[len(names) - len(wanted.defaults) :], wanted.defaults, strict=True))
        late |= {a.arg: d for a, d in zip(wanted.kwonlyargs, wanted.kw_defaults, strict=True) if d is not None}
        for name, node in late.items():
            if name not in bound:
                bound[name] = self.value(node, function.scope)  # each time anew, so that none is shared
        if missing := [name for name in known if name not in bound]:
            raise ProgramError(f"{function.name}: the argument {missing[0]!r} is missing")
        return bound

    def _block(self, nodes: Sequence[ast.stmt], scope: Scope) -> None:
        for node in nodes:
            self.line = node.lineno
            self.meter.step()
            STATEMENTS[type(node)](self, node, scope)

    def _return(self, node: Any, scope: Scope) -> None:
        raise _Leave("return", None if node.value is None else self.value(node.value, scope))

    def _assign(self, node: Any, scope: Scope) -> None:
        value = self.value(node.value, scope)
        for target in node.targets:
            self._store(target, value, scope)

    def _annotated(self, node: Any, scope: Scope) -> None:
        if node.value is not None:
            self._store(node.target, self.value(node.value, scope), scope)

    def _augmented(self, node: Any, scope: Scope) -> None:
        target = node.target
        if isinstance(target, ast.Subscript):
            holder, index = self.value(target.value, scope), self.value(target.slice, scope)
            old = self.operations.subscript(holder, index)
            self.operations.store(
                holder, index, self.operations.binary(type(node.op), old, self.value(node.value, scope))
            )
            return
        old = scope.find(target.id)
        scope.names[target.id] = self.operations.binary(type(node.op), old, self.value(node.value, scope))

    def _store(self, target: ast.expr, value: Any, scope: Scope) -> None:
        """A name, a place of a list or dict, or several of them at once."""
        self.meter.step()
        if isinstance(target, ast.Name):
            scope.names[target.id] = value
        elif isinstance(target, ast.Subscript):
            self.operations.store(self.value(target.value, scope), self.value(target.slice, scope), value)
        else:
            parts = self.operations.items(value)
            wanted = target.elts  # type: ignore[attr-defined]
            if len(parts) != len(wanted):
                raise ProgramError(f"expected {len(wanted)} values, found {len(parts)}")
            for each, part in zip(wanted, parts, strict=True):
                self._store(each, part, scope)

    def _for(self, node: Any, scope: Scope) -> None:
        for item in self.operations.iterate(self.value(node.iter, scope)):
            self.meter.step()
            self._store(node.target, item, scope)
            if not self._turn(node.body, scope):
                return
        self._block(node.orelse, scope)

    def _while(self, node: Any, scope: Scope) -> None:
        while self.value(node.test, scope):
            if not self._turn(node.body, scope):
                return
        self._block(node.orelse, scope)

    def _turn(self, body: Sequence[ast.stmt], scope: Scope) -> bool:
        """One turn of a loop; False where it breaks."""
        try:
            self._block(body, scope)
        except _Leave as leave:
            if leave.kind == "return":
                raise
            return leave.kind == "continue"
        return True

    def _if(self, node: Any, scope: Scope) -> None:
        self._block(node.body if self.value(node.test, scope) else node.orelse, scope)

    def _define(self, node: Any, scope: Scope) -> None:
        scope.names[node.name] = Function(node.name, node, scope)

    def _leave(self, node: Any, scope: Scope) -> None:
        raise _Leave("break" if isinstance(node, ast.Break) else "continue")

    def value(self, node: ast.expr, scope: Scope) -> Any:
        """The value of an expression."""
        self.meter.step()
        return EXPRESSIONS[type(node)](self, node, scope)

    def _values(self, nodes: Sequence[ast.expr], scope: Scope) -> list[Any]:
        self.meter.make(len(nodes) + 1)
        return [self.value(each, scope) for each in nodes]

    def _attribute(self, node: Any, scope: Scope) -> Any:
        holder = self.value(node.value, scope)
        if not isinstance(holder, Exposed):
            return self.operations.method(holder, node.attr)
        if node.attr not in holder.shown:
            raise ProgramError(f"{word(holder)} has no {node.attr!r}; it has {', '.join(sorted(holder.shown))}")
        found = getattr(holder, node.attr)
        if isinstance(found, HostFunction):
            return found
        return HostFunction(node.attr, found) if callable(found) else admit(found, node.attr)

    def _called(self, node: Any, scope: Scope) -> Any:
        function = self.value(node.func, scope)
        given = self._values(node.args, scope)
        named = {each.arg: self.value(each.value, scope) for each in node.keywords}
        return self.call(function, *given, **named)

    def _compare(self, node: Any, scope: Scope) -> Any:
        left: Any = self.value(node.left, scope)
        found: Any = True
        for kind, other in zip(node.ops, node.comparators, strict=True):
            right = self.value(other, scope)
            found = self.operations.compare(type(kind), left, right)
            if not found:
                return found
            left = right
        return found

    def _boolean(self, node: Any, scope: Scope) -> Any:
        found: Any = None
        for each in node.values:
            found = self.value(each, scope)
            if bool(found) is isinstance(node.op, ast.Or):
                return found
        return found

    def _unary(self, node: Any, scope: Scope) -> Any:
        found = self.value(node.operand, scope)
        if not isinstance(node.op, ast.Not) and type(found) not in (int, float, bool):
            raise ProgramError(f"{word(found)} has no sign")
        return UNARY[type(node.op)](found)

    def _slice(self, node: Any, scope: Scope) -> slice:
        return slice(
            *(None if each is None else self.value(each, scope) for each in (node.lower, node.upper, node.step))
        )

    def _dict(self, node: Any, scope: Scope) -> dict[Any, Any]:
        if any(key is None for key in node.keys):
            raise ProgramError("** is not allowed in a program")
        self.meter.make(2 * len(node.keys) + 1)
        return {self.operations.key(self.value(k, scope)): self.value(v, scope)
                for k, v in zip(node.keys, node.values, strict=True)}  # fmt: skip

    def _comprehended(self, node: Any, scope: Scope) -> Any:
        """A list, set or dict of loops; what would be a generator is a list."""
        found: list[Any] = []
        inner = Scope({}, scope)

        def loop(depth: int) -> None:
            if depth == len(node.generators):
                self.meter.make(2)
                found.append((self.value(node.key, inner), self.value(node.value, inner))
                             if isinstance(node, ast.DictComp) else self.value(node.elt, inner))  # fmt: skip
                return
            part = node.generators[depth]
            for item in self.operations.iterate(self.value(part.iter, inner)):
                self.meter.step()
                self._store(part.target, item, inner)
                if all(self.value(test, inner) for test in part.ifs):
                    loop(depth + 1)

        loop(0)
        for each in found if isinstance(node, ast.SetComp) else ():
            self.operations.key(each)
        if isinstance(node, ast.DictComp):
            return {self.operations.key(key): value for key, value in found}
        return self.call(self.own["set"], found) if isinstance(node, ast.SetComp) else found

    def _joined(self, node: Any, scope: Scope) -> str:
        parts: list[str] = [
            str(each.value) if isinstance(each, ast.Constant) else self._formatted(each, scope) for each in node.values
        ]
        self.meter.make(sum(map(len, parts)) // 8 + 1)
        return "".join(parts)

    def _formatted(self, node: Any, scope: Scope) -> str:
        spec = "" if node.format_spec is None else self._joined(node.format_spec, scope)
        return self.operations.format(self.value(node.value, scope), spec, node.conversion)


Walk = Callable[[Evaluator, Any, Scope], Any]
STATEMENTS: Mapping[type, Walk] = {
    ast.Return: Evaluator._return, ast.Assign: Evaluator._assign, ast.AugAssign: Evaluator._augmented,
    ast.AnnAssign: Evaluator._annotated, ast.For: Evaluator._for, ast.While: Evaluator._while, ast.If: Evaluator._if,
    ast.FunctionDef: Evaluator._define, ast.Break: Evaluator._leave, ast.Continue: Evaluator._leave,
    ast.Expr: lambda walk, node, scope: walk.value(node.value, scope), ast.Pass: lambda walk, node, scope: None,
    ast.Import: lambda walk, node, scope: None, ast.ImportFrom: lambda walk, node, scope: None,
}  # fmt: skip
EXPRESSIONS: Mapping[type, Walk] = {
    ast.Constant: lambda walk, node, scope: node.value, ast.Name: lambda walk, node, scope: scope.find(node.id),
    ast.BinOp: lambda walk, node, scope: walk.operations.binary(
        type(node.op), walk.value(node.left, scope), walk.value(node.right, scope)
    ),
    ast.BoolOp: Evaluator._boolean, ast.UnaryOp: Evaluator._unary, ast.Compare: Evaluator._compare,
    ast.Call: Evaluator._called, ast.Attribute: Evaluator._attribute, ast.Slice: Evaluator._slice,
    ast.IfExp: lambda walk, node, scope: walk.value(node.body if walk.value(node.test, scope) else node.orelse, scope),
    ast.Subscript: lambda walk, node, scope: walk.operations.subscript(
        walk.value(node.value, scope), walk.value(node.slice, scope)
    ),
    ast.List: lambda walk, node, scope: walk._values(node.elts, scope),
    ast.Tuple: lambda walk, node, scope: tuple(walk._values(node.elts, scope)),
    ast.Set: lambda walk, node, scope: walk.call(walk.own["set"], walk._values(node.elts, scope)),
    ast.Dict: Evaluator._dict, ast.ListComp: Evaluator._comprehended, ast.SetComp: Evaluator._comprehended,
    ast.DictComp: Evaluator._comprehended, ast.GeneratorExp: Evaluator._comprehended,
    ast.Lambda: lambda walk, node, scope: Function("lambda", node, scope), ast.JoinedStr: Evaluator._joined,
    ast.FormattedValue: Evaluator._formatted,
}  # fmt: skip
