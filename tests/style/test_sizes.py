"""Files, functions and configs stay small enough to be read in one sitting."""

import ast
from collections.abc import Iterator
from pathlib import Path

from project_source import PACKAGE, parsed, python_files, short

FILE_LINES, SYSTEM_LINES, FUNCTION_LINES, PARAMETERS, CONFIG_FIELDS = 500, 150, 60, 8, 15
# What a user says by keyword about a whole model, or at the command line about a server.
ENTRY_POINTS = {
    "src/polymodal/api/load.py: load": 10,
    "src/polymodal/cli/serve.py: serve": 12,
    "src/polymodal/cli/catalogue.py: systems": 11,
    "src/polymodal/cli/draw.py: draw": 10,
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[Function]:
    yield from (node for node in ast.walk(parsed(path)) if isinstance(node, Function))


def body_lines(node: Function) -> int:
    """Lines of code of a function; its docstring does not count, since a long one is no fault."""
    first = node.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    documented = (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0
    return (node.end_lineno or node.lineno) - node.lineno + 1 - documented


def test_files():
    wrong = []
    for path in python_files():
        entry = path.parent if path.name == "__init__.py" else path
        is_system = entry.parent == PACKAGE / "systems" and not entry.name.startswith("_")
        limit = SYSTEM_LINES if is_system else FILE_LINES
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if lines > limit:
            wrong.append(f"{short(path)}: {lines} lines, limit {limit}")
    assert not wrong, "\n".join(wrong)


def test_functions():
    wrong = []
    for path in python_files(PACKAGE):
        for node in functions(path):
            names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            count = len([name for name in names if name not in {"self", "cls"}])
            if body_lines(node) > FUNCTION_LINES:
                wrong.append(f"{short(path)}:{node.lineno}: {node.name} has {body_lines(node)} lines")
            if count > ENTRY_POINTS.get(f"{short(path)}: {node.name}", PARAMETERS):
                wrong.append(f"{short(path)}:{node.lineno}: {node.name} has {count} parameters")
    assert not wrong, "\n".join(wrong)


def test_configs_and_records():
    wrong = []
    for path in python_files(PACKAGE):
        for node in ast.walk(parsed(path)):
            if not isinstance(node, ast.ClassDef) or "dataclass" not in "".join(map(ast.unparse, node.decorator_list)):
                continue
            fields = [item for item in node.body if isinstance(item, ast.AnnAssign)]
            if len(fields) > CONFIG_FIELDS:
                wrong.append(f"{short(path)}:{node.lineno}: {node.name} has {len(fields)} fields")
            if node.name.endswith("Config") and "frozen=True" not in "".join(map(ast.unparse, node.decorator_list)):
                wrong.append(f"{short(path)}:{node.lineno}: {node.name} is not frozen")
    assert not wrong, "\n".join(wrong)


def test_every_module_says_what_it_is():
    wrong = [short(path) for path in python_files(PACKAGE) if not ast.get_docstring(parsed(path))]
    assert not wrong, f"no module docstring: {wrong}"


def test_test_files_have_names_of_their_own():
    """pytest imports a test file by its name alone."""
    names = [path.name for path in python_files() if path.name.startswith("test_")]
    assert not sorted({name for name in names if names.count(name) > 1})
