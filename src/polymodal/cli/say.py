"""`say`: a text as speech, written to a sound file or played; and `ask --say`, which speaks its answer.

A voice of Kokoro speaks, or a model that speaks itself: `say --model`, and `ask --say` of such a model.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from polymodal.cli.catalogue import JSON
from polymodal.cli.cleaning import own
from polymodal.cli.model import MODEL_HELP, OPTIONS, open_model, with_options

STANDARD_OUTPUT = Path("-")
# What plays a WAV file, by system and desktop; the first that is installed.
PLAYERS = (("pw-play",), ("paplay",), ("aplay", "-q"), ("afplay",), ("play", "-q"),
           ("ffplay", "-nodisp", "-autoexit", "-loglevel", "error"))  # fmt: skip

VOICE = Annotated[str, typer.Option(help="Who speaks; `polymodal say --voices` lists the names.")]
SPEED = Annotated[float, typer.Option(help="How fast, 0.25 to 4.")]
OUT = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "-o",
        help="Sound file to write: .wav .flac .mp3 .opus .aac, - for standard output; else it is played.",
    ),
]
SPEAKER = Annotated[
    str | None, typer.Option("--model", "-m", help=f"Who speaks in place of a voice: a model that can. {MODEL_HELP}")
]
SAY = Annotated[bool, typer.Option("--say", help="Speak the answer too: played, or written with --out.")]


def placed(**options: Any) -> dict[str, Any]:
    """How a model is loaded."""
    return options


def says(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of loading a model to a command, which gets them as `place`."""
    return with_options(command, "place", OPTIONS, placed)


@says
def say(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="What to say; - reads it from standard input.")
    ] = None,
    out: OUT = None,
    voice: VOICE = "af_heart",
    speed: SPEED = 1.0,
    voices: Annotated[bool, typer.Option("--voices", help="List the voices and say nothing.")] = False,
    model: SPEAKER = None,
    json: JSON = False,
    *,
    place: dict[str, Any],
) -> None:
    """Say a text aloud, or write it as a sound file: polymodal say "Hello." --out hello.wav."""
    from polymodal.cli.output import print_json
    from polymodal.cli.threads import set_threads

    if voices:
        return list_voices(json)
    words = words_of(text)
    speaking = Speaking(voice=voice, speed=speed, out=out)
    speaking.check(json)
    if model is None:
        check_no_place(place)
        set_threads(place["threads"])
        told = speaking.speak(words)
    else:
        speaking.check_own(model)
        told = say_by_model(open_model(model, **place), words, speaking)
    if json:
        print_json(told)
    elif out is not None and out != STANDARD_OUTPUT:
        print(f"{out}: {told['duration']:.1f} s of speech", file=sys.stderr)


def words_of(text: str | None) -> str:
    """The text to say.  Raises PromptError for none."""
    from polymodal.cli.inputs import STDIN, read_stdin
    from polymodal.cli.streams import as_text
    from polymodal.errors import PromptError

    found = read_stdin().decode("utf-8", "replace") if text == STDIN else as_text(text or "")
    if not found.strip():
        raise PromptError('the text is empty; as in: polymodal say "Hello." --out hello.wav')
    return found


def check_no_place(place: dict[str, Any]) -> None:
    """Raises ConfigError for options of loading a model, where none is named."""
    from polymodal.errors import ConfigError

    for name, (_, default) in OPTIONS.items():
        if name != "threads" and place[name] != default:
            raise ConfigError(f"--{name}: says how a model is loaded; give --model too")


def say_by_model(model: Any, words: str, speaking: Speaking) -> dict[str, Any]:
    """A text as a model reads it aloud; gives the stable keys of `say --model --json`."""
    from polymodal.cli.output import waiting

    begin = time.perf_counter()
    with waiting("speaking"):
        speech = model.say(words, seed=0)
    seconds = {"load": round(model.load_seconds, 4), "speak": round(time.perf_counter() - begin, 4)}
    return speaking.delivered(speech) | {"model": model.name, "seconds": seconds}


def list_voices(json: bool) -> None:
    """The voices with their languages."""
    import polymodal as pm
    from polymodal.cli.output import print_json
    from polymodal.pipelines.speaking.kokoro_files import LANGUAGE_NAMES

    rows = [{"voice": name, "language": LANGUAGE_NAMES[name[0]]} for name in pm.Voice.names]
    if json:
        print_json(rows)
    else:
        print("\n".join(f"{row['voice']:14}{row['language']}" for row in rows))


@dataclass(frozen=True, kw_only=True)
class Speaking:
    """How a text is spoken.  out: the file; None: played."""

    voice: str = "af_heart"
    speed: float = 1.0
    out: Path | None = None

    def check(self, json: bool = False) -> None:
        """Raises what is wrong with the options before anything is loaded: UnknownName, ConfigError."""
        import polymodal as pm
        from polymodal.data.audio_writing import writable
        from polymodal.errors import ConfigError
        from polymodal.pipelines.speaking.kokoro import check_speed

        pm.Voice.checked(self.voice)
        check_speed(self.speed)
        if self.out is None:
            if player() is None:
                names = ", ".join(command[0] for command in PLAYERS)
                raise ConfigError(f"no player of sound was found ({names}); give --out FILE.wav")
            return
        if self.out == STANDARD_OUTPUT:
            if json:
                raise ConfigError("--out - writes the sound to standard output, where --json has no place")
            return
        ending = self.out.suffix.lower().removeprefix(".")
        if ending not in writable():
            raise ConfigError(f"--out {self.out}: expected a name ending in .{', .'.join(writable())}")
        if not self.out.absolute().parent.is_dir():
            raise ConfigError(f"--out {self.out}: there is no folder {self.out.parent}")

    def check_own(self, model: str) -> None:
        """Raises ConfigError for options of voices, of which a model that speaks itself has none."""
        from polymodal.errors import ConfigError

        for name, default in (("voice", "af_heart"), ("speed", 1.0)):
            if getattr(self, name) != default:
                raise ConfigError(f"--{name}: {model} speaks itself, with a voice of its own; leave it out")

    def delivered(self, speech: Any) -> dict[str, Any]:
        """Play or write speech; what `--json` says of it."""
        if self.out is None:
            play(speech)
        elif self.out == STANDARD_OUTPUT:
            stream = own(sys.stdout).buffer
            stream.write(speech.encode("wav"))
            stream.flush()
        else:
            speech.save(self.out)
        file = None if self.out is None else str(self.out)
        return {"file": file, "duration": round(speech.seconds, 3), "rate": speech.rate}

    def speak(self, text: str) -> dict[str, Any]:
        """Say a text; gives the stable keys of `say --json`."""
        import polymodal as pm
        from polymodal.cli.output import transfers, waiting

        begin = time.perf_counter()
        with transfers() as report:
            voice = pm.voice(self.voice, progress=report)
        loaded = time.perf_counter()
        with waiting("speaking"):
            speech = voice.say(text, speed=self.speed)
        spoken = time.perf_counter()
        told = self.delivered(speech)
        return {
            "file": told.pop("file"),
            "voice": self.voice,
            **told,
            "seconds": {"load": round(loaded - begin, 4), "speak": round(spoken - loaded, 4)},
        }


def player() -> tuple[str, ...] | None:
    """The command that plays a WAV file here."""
    return next((command for command in PLAYERS if shutil.which(command[0])), None)


def play(speech: Any) -> None:
    """Play speech and wait for its end.  Raises StorageError where the machine cannot."""
    from polymodal.errors import StorageError

    command = player()
    assert command is not None
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        file.write(speech.encode("wav"))
        file.flush()
        done = subprocess.run([*command, file.name], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["it gave no reason"])[-1]
        raise StorageError(f"{command[0]} could not play the speech: {why}; --out FILE.wav writes it instead")


ALOUD = {"say": (SAY, False), "voice": (VOICE, "af_heart"), "speed": (SPEED, 1.0), "out": (OUT, None)}
"""The options of a command that may speak what it writes."""


def aloud(*, say: bool, **options: Any) -> Speaking | None:
    """How the options of ALOUD wish it spoken, None without --say.  Raises as `Speaking.check`."""
    from polymodal.errors import ConfigError

    if not say:
        if options["out"] is not None:
            raise ConfigError("--out is where --say writes its speech; give --say too")
        return None
    chosen = Speaking(**options)
    chosen.check()
    return chosen
