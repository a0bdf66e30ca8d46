"""Write src/polymodal/systems/_recognition.py: by which words of a config.json each system knows its checkpoints.

    python scripts/recognition.py           writes the file
    recognition.text()                      what the file must hold; tests/systems/test_recognition.py compares

The words come from the records of all systems (`ConfigMatch` of their formats), so nothing is listed twice by hand.
"""

from __future__ import annotations

import re
from pathlib import Path

from polymodal import systems
from polymodal.systems import ConfigMatch, System

HEAD = '''"""Written by scripts/recognition.py from the records of all systems: do not edit.

Which systems may read a checkpoint, by words of its config.json; SHAPES: by the shapes of its tensors.
"""

'''
PATH = Path(__file__).parents[1] / "src" / "polymodal" / "systems" / "_recognition.py"


def text() -> str:
    """The file for the systems as they are."""
    tables = {"MODEL_TYPES": "model_types", "ARCHITECTURES": "architectures", "KEYS": "keys"}
    found = systems.every()
    parts = [f"{name}: dict[str, tuple[str, ...]] = {{\n{_rows(found, field)}}}\n" for name, field in tables.items()]
    shapes = "".join(f'    "{stem(each)}",\n' for each in found if any(one.infer is not None for one in each.formats))
    return HEAD + "".join(parts) + f"SHAPES: tuple[str, ...] = (\n{shapes})\n"


def _rows(found: list[System], field: str) -> str:
    """One line for each word: the systems that know a config by it."""
    words: dict[str, set[str]] = {}
    for system in found:
        for format in system.formats:
            if not isinstance(format.matches, ConfigMatch):
                raise TypeError(f"{system.id}: {format.name}: `matches` of a system of the catalogue is a ConfigMatch")
            for word in getattr(format.matches, field):
                words.setdefault(word, set()).add(stem(system))
    return "".join(f'    "{word}": {_tuple(words[word])},\n' for word in sorted(words))


def _tuple(stems: set[str]) -> str:
    listed = ", ".join(f'"{stem}"' for stem in sorted(stems))
    return f"({listed},)" if len(stems) == 1 else f"({listed})"


def stem(system: System) -> str:
    """The name of a system's file or folder."""
    return re.sub(r"[-.]", "_", system.id)


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
