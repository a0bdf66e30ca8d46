"""`say`: a text as speech, written to a sound file or played; and `ask --say`, which speaks its answer."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from polymodal.cli.catalogue import JSON
from polymodal.cli.cleaning import own
from polymodal.cli.model import THREADS

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
SAY = Annotated[bool, typer.Option("--say", help="Speak the answer too: played, or written with --out.")]


def say(
    text: Annotated[
        str | None, typer.Argument(metavar="TEXT", help="What to say; - reads it from standard input.")
    ] = None,
    out: OUT = None,
    voice: VOICE = "af_heart",
    speed: SPEED = 1.0,
    voices: Annotated[bool, typer.Option("--voices", help="List the voices and say nothing.")] = False,
    threads: THREADS = None,
    json: JSON = False,
) -> None:
    """Say a text aloud, or write it as a sound file: polymodal say "Hello." --out hello.wav."""
    from polymodal.cli.output import print_json
    from polymodal.cli.threads import set_threads

    if voices:
        return list_voices(json)
    words = words_of(text)
    speaking = Speaking(voice=voice, speed=speed, out=out)
    speaking.check(json)
    set_threads(threads)
    told = speaking.speak(words)
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
        if self.out is None:
            play(speech)
        elif self.out == STANDARD_OUTPUT:
            stream = own(sys.stdout).buffer
            stream.write(speech.encode("wav"))
            stream.flush()
        else:
            speech.save(self.out)
        return {
            "file": None if self.out is None else str(self.out),
            "voice": self.voice,
            "duration": round(speech.seconds, 3),
            "rate": speech.rate,
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
