"""The language of programs: the part of Python that is allowed, checked on the tree before anything runs.

    parse(source) -> the functions of a program        raises ProgramError naming the line and what is not allowed

The list is one of what may stand in a program; all else is refused: classes, imports other than of what is there
anyway, decorators, try, with, del, global, async, generators that wait, names and attributes that begin with an
underscore. Python's own parser reads the source; nothing is compiled or executed.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

from polymodal.agents.interpreter.errors import LimitError, ProgramError

LONGEST, NODES, DEEPEST = 20_000, 5_000, 60
STATEMENTS = (
    ast.FunctionDef, ast.Return, ast.Assign, ast.AugAssign, ast.AnnAssign, ast.For, ast.While, ast.If, ast.Expr,
    ast.Pass, ast.Break, ast.Continue, ast.Import, ast.ImportFrom,
)  # fmt: skip
EXPRESSIONS = (
    ast.Constant, ast.Name, ast.BinOp, ast.BoolOp, ast.UnaryOp, ast.Compare, ast.Call, ast.IfExp, ast.Attribute,
    ast.Subscript, ast.Slice, ast.List, ast.Tuple, ast.Dict, ast.Set, ast.ListComp, ast.SetComp, ast.DictComp,
    ast.GeneratorExp, ast.Lambda, ast.JoinedStr, ast.FormattedValue,
)  # fmt: skip
BESIDE = (
    ast.Module, ast.arguments, ast.arg, ast.keyword, ast.comprehension, ast.alias, ast.expr_context, ast.operator,
    ast.boolop, ast.unaryop, ast.cmpop,
)  # fmt: skip
CONSTANTS = (str, int, float, bool, type(None))
MODULES = ("math", "typing")  # what a program may say that it imports: math is there anyway, types are not looked at
WORDS: Mapping[type, str] = {
    ast.ClassDef: "a class", ast.Try: "try", ast.With: "with", ast.Delete: "del", ast.Global: "global",
    ast.Nonlocal: "nonlocal", ast.AsyncFunctionDef: "async", ast.AsyncFor: "async", ast.AsyncWith: "async",
    ast.Await: "await", ast.Yield: "yield", ast.YieldFrom: "yield", ast.NamedExpr: ":=", ast.Starred: "*",
    ast.Raise: "raise", ast.Assert: "assert", ast.Match: "match",
}  # fmt: skip


def parse(source: str) -> dict[str, ast.FunctionDef]:
    """The functions of a program by name.  Raises ProgramError, LimitError."""
    if len(source) > LONGEST:
        raise LimitError(f"the program has {len(source):,} characters, the limit is {LONGEST:,}")
    try:
        tree = ast.parse(source)
    except SyntaxError as problem:
        raise ProgramError(f"line {problem.lineno or 1}: the program is not Python: {problem.msg}") from None
    except (ValueError, RecursionError, MemoryError) as problem:
        raise ProgramError(f"the program cannot be read: {type(problem).__name__}") from None
    _check(tree)
    functions = {}
    for each in tree.body:
        if isinstance(each, ast.FunctionDef):
            functions[each.name] = each
        elif not isinstance(each, ast.Import | ast.ImportFrom) and not _is_text(each):
            raise ProgramError(f"line {each.lineno}: outside functions a program has nothing; put it into one")
    return functions


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _check(tree: ast.Module) -> None:
    """Every node, without recursion; annotations are no part of what runs and are taken off."""
    waiting: list[tuple[ast.AST, int]] = [(tree, 0)]
    count = 0
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if count > NODES or depth > DEEPEST:
            raise LimitError(f"the program has more than {NODES} parts or is nested more than {DEEPEST} deep")
        _check_node(node)
        waiting += [(child, depth + 1) for child in ast.iter_child_nodes(node)]


def _check_node(node: ast.AST) -> None:
    if not isinstance(node, STATEMENTS + EXPRESSIONS + BESIDE):
        word = WORDS.get(type(node), type(node).__name__)
        raise ProgramError(f"line {getattr(node, 'lineno', '?')}: {word} is not allowed in a program")
    if isinstance(node, ast.FunctionDef):
        _check_function(node)
    elif isinstance(node, ast.AnnAssign):
        node.annotation = ast.Constant(value=None)
    elif isinstance(node, ast.arg):
        node.annotation = None
        _check_name(node.arg, node)
    elif isinstance(node, ast.Constant) and type(node.value) not in CONSTANTS:
        raise ProgramError(f"line {node.lineno}: {type(node.value).__name__} values are not allowed in a program")
    elif isinstance(node, ast.Name):
        _check_name(node.id, node)
    elif isinstance(node, ast.Attribute):
        _check_name(node.attr, node)
        if not isinstance(node.ctx, ast.Load):
            raise ProgramError(f"line {node.lineno}: attributes cannot be set")
    elif isinstance(node, ast.keyword):
        if node.arg is None:
            raise ProgramError(f"line {node.value.lineno}: ** is not allowed in a program")
        _check_name(node.arg, node.value)
    elif isinstance(node, ast.comprehension) and node.is_async:
        raise ProgramError("async is not allowed in a program")
    elif isinstance(node, ast.Import | ast.ImportFrom):
        _check_import(node)
    elif isinstance(node, ast.MatMult):
        raise ProgramError("@ is not allowed in a program")


def _check_function(node: ast.FunctionDef) -> None:
    if node.decorator_list:
        raise ProgramError(f"line {node.lineno}: decorators are not allowed in a program")
    if node.args.vararg or node.args.kwarg:
        raise ProgramError(f"line {node.lineno}: * and ** are not allowed in a program")
    node.returns = None
    if getattr(node, "type_params", None):
        raise ProgramError(f"line {node.lineno}: type parameters are not allowed in a program")
    _check_name(node.name, node)


def _check_import(node: ast.Import | ast.ImportFrom) -> None:
    module = node.module if isinstance(node, ast.ImportFrom) else None
    names = [module or "."] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
    for name in names:
        if name not in MODULES or (isinstance(node, ast.ImportFrom) and (node.level or name != "typing")):
            raise ProgramError(f"line {node.lineno}: import of {name!r} is not allowed; math is there without it")
    if any(each.asname for each in node.names):
        raise ProgramError(f"line {node.lineno}: import ... as is not allowed")


def _check_name(name: str, node: ast.AST) -> None:
    # Python reads "𝒸𝓁𝒶𝓈𝓈" as "class" while it parses, so what is compared here is what would be looked up.
    if name.startswith("_"):
        raise ProgramError(
            f"line {getattr(node, 'lineno', '?')}: {name!r} begins with an underscore, which is not allowed"
        )
