"""`ask` and `chat` with an agent: who plans, which tools there are, and where what they make is written.

    polymodal ask photo.jpg "Draw its edges." --model visual-chatgpt --planner http://127.0.0.1:8000/v1 --tool mini

The answer goes to standard output; each step, also one that was refused, is a line on standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

PLANNER = Annotated[
    str,
    typer.Option(
        help="Of an agent: who plans; a chat model, http://HOST/v1, or a .json list of outputs.", show_default=False
    ),
]
TOOL = Annotated[
    list[str] | None,
    typer.Option(help="Of an agent: a model whose abilities are tools, kokoro for speech; repeat it for more [mini]."),
]
PROMPT = Annotated[
    Path | None, typer.Option("--prompt-file", help="Of an agent: your own wording of its prompt (docs/agents.md).")
]
MADE = Annotated[Path, typer.Option("--made-in", help="Of an agent: the folder for what its tools make.")]
OPTIONS: dict[str, tuple[Any, Any]] = {
    "planner": (PLANNER, ""), "tool": (TOOL, None), "prompt_file": (PROMPT, None), "made_in": (MADE, Path()),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Agency:
    """What `ask` and `chat` need beside an agent."""

    planner: str
    tools: tuple[str, ...]
    prompt: Path | None
    folder: Path

    @classmethod
    def of(
        cls, planner: str, tool: list[str] | None = None, prompt_file: Path | None = None, made_in: Path = Path()
    ) -> Agency | None:
        """From the options, None where no planner is named.  Raises ConfigError for those that need one."""
        from polymodal.errors import ConfigError

        if not planner:
            if tool or prompt_file or made_in != Path():
                raise ConfigError("--tool, --prompt-file and --made-in are for agents; name who plans with --planner")
            return None
        if not made_in.is_dir():
            raise ConfigError(f"--made-in {made_in}: there is no such folder")
        return cls(planner=planner, tools=tuple(tool or ("mini",)), prompt=prompt_file, folder=made_in)

    def begin(self, model: Any) -> Any:
        """A conversation of this planner with an agent."""
        import polymodal as pm
        from polymodal.cli.output import waiting

        with waiting(f"loading {self.planner}"):
            return pm.agent(model, self.planner, tools=self.tools, prompt=self.prompt)


def require_planner(model: Any) -> None:
    """Raises ConfigError for an agent that nobody plans for."""
    from polymodal.errors import ConfigError

    if "agent" in model.can:
        raise ConfigError(
            f"{model.name} is an agent and needs a planner: --planner with a chat model's id or folder, or http://HOST/v1"
        )


def ask_agent(model: Any, opened: Sequence[Any], question: str, agency: Agency, *, json: bool) -> None:
    """One request, its steps and what was made."""
    from polymodal.cli.output import waiting

    chat = agency.begin(model)
    with waiting("working"):
        reply = chat.ask(*opened, question)
    tell(reply, [write(chat.files, name, agency.folder) for name in chat.files.made], json=json)


def tell(reply: Any, paths: Sequence[Path], *, json: bool, lines: bool = False) -> None:
    """The answer on standard output, its steps and the files that were made on standard error; or all as JSON.

    lines: JSON on one line.
    """
    from polymodal.cli.output import print_json

    if json:
        steps = [step_of(step) for step in reply.steps]
        seconds = {name: round(value, 4) for name, value in reply.seconds.items()}
        print_json({"answer": reply.text, "model": reply.model, "finish": reply.finish_reason, "seconds": seconds,
                    "steps": steps, "made": [str(path) for path in paths]}, lines=lines)  # fmt: skip
        return
    for number, step in enumerate(reply.steps, 1):
        print(line_of(number, step), file=sys.stderr)
    print(reply.text)
    for path in paths:
        print(f"[made {path}]", file=sys.stderr)


def step_of(step: Any) -> dict[str, Any]:
    """The stable keys of a step in JSON."""
    return {"tool": step.tool, "arguments": step.arguments, "result": step.result, "error": step.error,
            "model": step.model, "made": step.made, "seconds": round(step.seconds, 4)}  # fmt: skip


def line_of(number: int, step: Any) -> str:
    """A step in one line."""
    asked, came = (" ".join(text.split())[:160] for text in (step.arguments, step.error or step.result))
    return f"{number}. {step.tool or '(no action)'}({asked}): {'refused: ' if step.error else ''}{came}"


def write(files: Any, name: str, folder: Path) -> Path:
    """A made file, under the last part of its name.  Raises ConfigError where it cannot be written."""
    from polymodal.data.audio_writing import encode_sound
    from polymodal.errors import ConfigError

    kind, _, tail = name.partition("/")
    path = folder / tail
    item = files.open(name, kind)
    try:
        if kind == "image":
            item.picture.save(path, "PNG")
        elif kind == "audio":
            rate = item.source[1] if isinstance(item.source, tuple) else 16000
            path.write_bytes(encode_sound(item.samples(rate), rate, "wav"))
        else:
            path.write_bytes(item.source if isinstance(item.source, bytes) else Path(item.source).read_bytes())
    except OSError as problem:
        raise ConfigError(f"cannot write {path}: {problem.strerror or problem}") from problem
    return path
