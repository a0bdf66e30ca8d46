"""What may not stand in the project: remote code, unsafe pickles, unfinished work, somebody's own paths."""

import ast
import re

from project_source import PACKAGE, imports, parsed, project_files, python_files, short

TEXT = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".sh", ".cfg", ".svg", ""}
# A person's or a machine's own folder; `/tmp` and `/dev` are the same everywhere.
CONTAINER = ("Dockerfile", "compose.yaml")  # their paths are those of the container
OWN_PATH = re.compile(r"(?<![\w.~$}/])/(?:home|root|Users|work|opt)/[\w.]")
UNFINISHED = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b")
REMOTE_CODE = "trust_remote" + "_code"


def texts():
    for path in project_files():
        if path.suffix in TEXT and path.stat().st_size < 2**20:
            yield path, path.read_text(encoding="utf-8", errors="replace")


def test_no_remote_code():
    wrong = [short(path) for path, text in texts() if REMOTE_CODE in text]
    assert not wrong, wrong


def test_no_path_of_one_machine():
    wrong = [
        f"{short(path)}:{number}: {line.strip()[:80]}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if OWN_PATH.search(line) and path.name not in CONTAINER
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_unfinished():
    wrong = [
        f"{short(path)}:{number}: {line.strip()[:80]}"
        for path, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if UNFINISHED.search(line) and path.name not in {"test_safety.py"}
    ]
    assert not wrong, "\n".join(wrong)


def calls(name: str):
    for path in python_files(PACKAGE):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == name:
                yield path, node


def keywords():
    for path in python_files(PACKAGE):
        yield from ((path, node) for node in ast.walk(parsed(path)) if isinstance(node, ast.keyword))


def test_no_way_to_run_what_was_downloaded():
    """No pickle, no eval, no shell: a file from outside is data, and weights/pickled.py reads what torch pickled."""
    banned = (
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
        "torch.load",
        "torch.jit.load",
        "marshal.loads",
        "eval",
        "exec",
        "os.system",
    )
    wrong = [f"{short(path)}:{node.lineno}: {name}" for name in banned for path, node in calls(name)]
    wrong += [
        f"{short(path)}:{found.line}: {found.target}"
        for path in python_files(PACKAGE)
        for found in imports(path)
        if found.target.split(".")[0] in {"dill", "cloudpickle", "marshal", "shelve"}
    ]
    wrong += [
        f"{short(path)}:{word.value.lineno}: {word.arg}={ast.unparse(word.value)}"
        for path, word in keywords()
        if word.arg in {"shell", "allow_pickle"} and ast.unparse(word.value) == "True"
    ]
    assert not wrong, "\n".join(wrong)


def test_weights_are_never_loaded_loosely():
    """`strict=False` is how a vision tower stays random and nobody notices."""
    wrong = [
        f"{short(path)}:{word.value.lineno}"
        for path, word in keywords()
        if word.arg == "strict" and ast.unparse(word.value) == "False" and "load_state_dict" in path.read_text()
    ]
    assert not wrong, "\n".join(wrong)
