"""`ask`: a question about files, answered piece by piece as the model writes; or about each of many files."""

from __future__ import annotations

import mimetypes
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from polymodal.cli.agent import OPTIONS as AGENT
from polymodal.cli.agent import Agency, ask_agent, require_planner
from polymodal.cli.catalogue import JSON
from polymodal.cli.model import MODEL, Load, loads_a_model, with_options
from polymodal.cli.perceive import FILES_HELP, JSONL
from polymodal.cli.say import ALOUD, Speaking, aloud

MAX_TOKENS = Annotated[int, typer.Option("--max-tokens", min=1, help="Maximum length of an answer in tokens.")]
TEMPERATURE = Annotated[
    float, typer.Option(min=0.0, help="Sampling temperature; 0: greedy, always the most likely token.")
]
SEED = Annotated[int, typer.Option(help="Seed of sampling: the same seed gives the same answer.")]
STOP_LOOPS = Annotated[int, typer.Option(min=0, help="Cut an answer whose last N tokens repeat themselves; 0: never.")]


TOP_P = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="Sample among the likeliest tokens that have this share; 1: all.")
]
STOP = Annotated[list[str] | None, typer.Option(help="A text that ends the answer; repeat it for more.")]
SYSTEM = Annotated[str, typer.Option(help="A system message before the question.", show_default=False)]
BOXES = Annotated[
    bool, typer.Option("--boxes", help="Also say where things are: FILE.boxes.png and .json in this folder.")
]
ANSWERS = Annotated[int, typer.Option("--answers", "-n", min=1, help="How many answers; each has its own seed.")]


def sampling_options(max_tokens: int) -> dict[str, tuple[Any, Any]]:
    """The options that say how an answer is sampled, with their defaults."""
    return {
        "max_tokens": (MAX_TOKENS, max_tokens),
        "temperature": (TEMPERATURE, 0.0),
        "top_p": (TOP_P, 1.0),
        "seed": (SEED, 0),
        "stop": (STOP, None),
        "stop_loops": (STOP_LOOPS, 128),
    }


def sampling_of(**options: Any) -> dict[str, Any]:
    """Keyword arguments of `Model.chat`.  Raises ConfigError for options that would change nothing."""
    from polymodal.cli.streams import as_text
    from polymodal.errors import ConfigError

    if options["top_p"] < 1 and not options["temperature"]:
        raise ConfigError("--top-p has no effect on greedy answers; give --temperature too, as in --temperature 0.7")
    stop = tuple(as_text(each) for each in options.pop("stop") or ())
    if "" in stop:
        raise ConfigError("--stop: expected a text, found an empty one")
    return options | ({"stop": stop} if stop else {})


def samples(max_tokens: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the sampling options to a command, which gets them as `sampling`, keyword arguments of `Model.chat`."""
    return lambda command: with_options(command, "sampling", sampling_options(max_tokens), sampling_of)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is wished of the answers.  sampling: keyword arguments of `Model.chat`.

    boxes: of what they are about.  aloud: how they are spoken, if they are.  agency: what an agent works with.
    """

    system: str
    answers: int
    boxes: bool
    sampling: dict[str, Any]
    aloud: Speaking | None = None
    agency: Agency | None = None

    @classmethod
    def of(cls, system: str, answers: int, boxes: bool, **options: Any) -> Wish:
        """From the options.  Raises ConfigError for several answers that would all be the same, or have boxes."""
        from polymodal.cli.streams import as_text
        from polymodal.errors import ConfigError

        if answers > 1 and not options["temperature"]:
            raise ConfigError(f"-n {answers}: greedy answers are all the same; give --temperature too, as 0.7")
        if answers > 1 and boxes:
            raise ConfigError("--boxes: takes one answer, without -n")
        spoken = aloud(**{name: options.pop(name) for name in ALOUD})
        if boxes and spoken is not None:
            raise ConfigError("--boxes: draws the answer; give it without --say")
        agency = Agency.of(**{name: options.pop(name) for name in AGENT})
        if agency is not None and (answers > 1 or boxes or system or spoken is not None):
            raise ConfigError("--planner: an agent answers once, without --system, --boxes and --say")
        return cls(system=as_text(system), answers=answers, boxes=boxes, sampling=sampling_of(**options), aloud=spoken,
                   agency=agency)  # fmt: skip

    def streams(self, model: Any, content: list[Any]) -> Iterator[Any]:
        """A stream for each answer; the first is the one that a single answer would be."""
        for number in range(self.answers):
            sampling = self.sampling | {"seed": self.sampling["seed"] + number}
            if self.system:
                said = [{"role": "system", "content": self.system}, {"role": "user", "content": content}]
                yield model.stream(said, **sampling)
            else:
                yield model.stream(*content, **sampling)


def asks(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of answers to a command, which gets them as `wish`."""
    options = {
        "system": (SYSTEM, ""),
        "answers": (ANSWERS, 1),
        "boxes": (BOXES, False),
        **sampling_options(max_tokens=128),
        **ALOUD,
        **AGENT,
    }
    return with_options(command, "wish", options, Wish.of)


@loads_a_model
@asks
def ask(
    files: Annotated[list[str] | None, typer.Argument(metavar="FILE...", help=FILES_HELP, show_default=False)] = None,
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="The question, in quotes.", show_default=False)
    ] = "",
    each: Annotated[
        bool, typer.Option("--each", help="Ask about each file on its own, as for a folder or a pattern.")
    ] = False,
    model: MODEL = "mini",
    json: JSON = False,
    jsonl: JSONL = False,
    *,
    wish: Wish,
    load: Load,
) -> None:
    """Ask a question about pictures, recordings or texts: polymodal ask photo.jpg "What is this?"."""
    from polymodal.cli.inputs import expand, open_all, stands_for_several
    from polymodal.cli.output import print_json
    from polymodal.cli.streams import as_text
    from polymodal.errors import ConfigError

    words = files or []
    check_question(question, words)
    question = as_text(question)
    inputs = expand(words)
    if inputs and (each or jsonl or any(map(stands_for_several, words))):
        if wish.aloud is not None:
            raise ConfigError("--say speaks the answer to one question; ask about one file at a time")
        if wish.agency is not None:
            raise ConfigError("--planner: an agent gets all files in one request, without --each, --jsonl and folders")
        if wish.boxes:
            raise ConfigError("--boxes: takes pictures by name and no --each, --jsonl, folder or pattern")
        ask_each(inputs, question, load, model, wish, json=json, jsonl=jsonl)
        return
    # Files are opened before the model is loaded: a wrong name costs a moment, not a minute.
    opened = open_all(inputs)
    if wish.boxes:
        ask_with_boxes(inputs, opened, question, load(model), wish, json=json)
        return
    content = [*opened, question]
    loaded = load(model)
    if wish.agency is not None:
        ask_agent(loaded, opened, question, wish.agency, json=json or jsonl)
        return
    require_planner(loaded)
    if wish.aloud is not None and "say" in loaded.can:
        ask_aloud(loaded, content, wish, wish.aloud, json=json or jsonl)
        return
    replies = []
    for stream in wish.streams(loaded, content):
        say(stream, quiet=json or jsonl)
        replies.append(stream.reply)
        if not (json or jsonl):
            if stopped := stopped_at(stream.reply):
                print(stopped, file=sys.stderr)
            print(costs(stream.reply), file=sys.stderr)  # stdout holds the answer alone
    spoken = None if wish.aloud is None else wish.aloud.speak("\n\n".join(reply.text for reply in replies))
    if json or jsonl:
        print_json(as_dicts(replies) | ({} if spoken is None else {"speech": spoken}), lines=jsonl)


def ask_aloud(model: Any, content: list[Any], wish: Wish, speaking: Speaking, *, json: bool) -> None:
    """One answer of a model that speaks itself: its words are printed when it is finished, its speech is delivered."""
    from polymodal.cli.output import print_json
    from polymodal.errors import ConfigError, PromptError

    speaking.check_own(model.name)
    if wish.answers > 1:
        raise ConfigError("--say: a model that speaks itself gives one answer, without -n")
    (stream,) = wish.streams(model, content)
    say(stream, quiet=True)
    reply = model.spoken(stream.reply)
    told = {"heard": reply.heard} if reply.heard else {}
    if not json:
        print(reply.text)
        print(costs(reply) if not reply.heard else f"[heard: {reply.heard}]\n{costs(reply)}", file=sys.stderr)
    if not reply.media["audio"]:
        raise PromptError(f"{model.name} answered without speech; ask it to say its answer, or leave out --say")
    speech = speaking.delivered(reply.media["audio"][0])
    if json:
        print_json(as_dict(reply) | told | {"speech": speech})


def ask_with_boxes(inputs: list[Any], opened: list[Any], question: str, model: Any, wish: Wish, *, json: bool) -> None:
    """One answer, printed when it is finished, in plain words; and the boxes of what it is about."""
    from polymodal.cli.boxes import Pictures, tell_boxes, write_boxes
    from polymodal.cli.output import print_json

    model.require("ground")
    pictures = Pictures.of(inputs, opened)
    (stream,) = wish.streams(model, [*opened, question])
    say(stream, quiet=True)
    grounding = model.ground(stream.reply.text, *pictures.records)
    told = write_boxes(grounding, pictures)
    if json:
        print_json(as_dict(stream.reply) | {"answer": grounding.text, "pictures": told})
        return
    print(grounding.text)
    tell_boxes(told)
    if stopped := stopped_at(stream.reply):
        print(stopped, file=sys.stderr)
    print(costs(stream.reply), file=sys.stderr)


def ask_each(inputs: list[Any], question: str, load: Load, model: str, wish: Wish, *, json: bool, jsonl: bool) -> None:
    """The same question about each input, one after another through one loaded model."""
    from polymodal.cli.inputs import open_all
    from polymodal.cli.many import report, results
    from polymodal.cli.output import progress

    if len(inputs) == 1:
        open_all(inputs)
    loaded = load(model)
    loaded.require("chat")

    def replies_about(item: Any) -> list[Any]:
        replies = []
        for stream in wish.streams(loaded, [item, question]):
            say(stream, quiet=True)
            replies.append(stream.reply)
        return replies

    def line(name: str, reply: Any) -> str:
        return " ".join(filter(None, (f"{name}: {reply.text}", stopped_at(reply))))

    with progress("asking about", len(inputs)) as step:
        report(
            results(inputs, lambda media: list(map(replies_about, media)), step=step),
            as_dict=as_dicts,
            as_words=lambda name, replies: "\n".join(line(name, reply) for reply in replies),
            several=True,
            json=json,
            lines=jsonl,
        )


def as_dicts(replies: list[Any]) -> dict[str, Any]:
    """The keys of the first answer; of several, all of them under "answers" too."""
    return as_dict(replies[0]) | ({"answers": [as_dict(each) for each in replies]} if len(replies) > 1 else {})


def as_dict(reply: Any) -> dict[str, Any]:
    """The stable keys of an answer in `ask --json` and `chat --json`."""
    return {
        "answer": reply.text,
        "model": reply.model,
        "tokens": reply.tokens,
        "seconds": {name: round(value, 4) for name, value in reply.seconds.items()},
        "finish": reply.finish_reason,
    }


def stopped_at(reply: Any) -> str:
    """What is said of an answer that was cut off, by the limit of tokens or because it repeats itself; else nothing."""
    from polymodal.cli.output import counted

    if reply.finish_reason == "stop":
        return ""
    why = ": the answer repeats itself" if reply.finish_reason == "repetition" else ""
    return f"(stopped at {counted(reply.tokens['generated'], 'token')}{why})"


def costs(reply: Any) -> str:
    """The cost of an answer in one line: tokens of each modality and seconds of each phase."""
    tokens = ", ".join(f"{count} {name}" for name, count in reply.tokens.items())
    seconds = ", ".join(f"{name} {value:.2f}" for name, value in reply.seconds.items())
    return f"[{reply.model}; tokens: {tokens}; seconds: {seconds}]"


def check_question(question: str, inputs: list[str]) -> None:
    """Raises PromptError for a question that is missing: it is empty, or a file stands in its place, there or not.

    inputs: the words before it; a folder of the same name does not turn a question about them into a mistake.
    """
    from polymodal.cli.inputs import DATA_URL, exists
    from polymodal.errors import PromptError

    if not question.strip():
        raise PromptError('the question is empty; as in: polymodal ask photo.jpg "What is this?"')
    if question.startswith("data:") and DATA_URL.fullmatch(question):
        raise PromptError(f'{question[:32]}... is data and the question is missing; add it at the end: "What is this?"')
    if exists(Path(question)) and (Path(question).is_file() or not inputs):
        kind = "file" if Path(question).is_file() else "folder"
        raise PromptError(f'{question} is a {kind} and the question is missing; add it at the end: "What is this?"')
    claimed = (mimetypes.guess_type(question)[0] or "").partition("/")[0]
    if not inputs and claimed in ("image", "audio", "video") and not any(map(str.isspace, question)):
        raise PromptError(f'there is no file {question}, and the question is missing; it goes last: "What is this?"')


def say(stream: Any, quiet: bool = False) -> None:
    """Print the pieces of an answer as they come; with `quiet` only wait for its end."""
    for piece in stream:
        if not quiet:
            sys.stdout.write(piece)
            sys.stdout.flush()
    if not quiet:
        sys.stdout.write("\n")
