"""What `serve` does once its options are read: keys, models, the listening socket, the server until it is stopped."""

from __future__ import annotations

import hashlib
import socket
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polymodal.cli.serve import LOCAL
from polymodal.engine.request import EngineLimits
from polymodal.errors import ConfigError
from polymodal.files import read_bytes
from polymodal.serve.settings import RequestLimits, Settings

if TYPE_CHECKING:
    from polymodal.serve.speech import ServedSpeaker

MAX_KEY_FILE = 1 << 20
OFFERED = frozenset({"chat", "draw", "embed", "ground", "transcribe"})
KOKORO = "kokoro"  # the voices of `pm.voice`, beside the models of the catalogue


def settings(
    host: str,
    key_file: Path | None,
    without_key: bool,
    origins: Sequence[str],
    media_hosts: Sequence[str],
    rows: int,
    max_tokens: int,
    compile: bool = False,
) -> Settings:
    """The options as settings.  Raises ConfigError for what would let strangers in by accident."""
    keys = frozenset() if key_file is None else read_keys(key_file)
    local = host in LOCAL
    if not local and not keys and not without_key:
        raise ConfigError(
            f"{host} can be reached from other machines: give --api-key-file FILE, or --without-key to let anybody in"
        )
    return Settings(
        api_keys=keys,
        hosts=frozenset(LOCAL) if local else frozenset(),
        origins=tuple(origins),
        media_hosts=frozenset(each.lower() for each in media_hosts),
        requests=RequestLimits(max_tokens=max_tokens),
        engine=EngineLimits(rows=rows),
        compile=compile,
    )


def read_keys(path: Path) -> frozenset[str]:
    """SHA-256 of the keys of a file: one a line, or `sha256:` and the hash itself.  Raises ConfigError."""
    text = read_bytes(path, MAX_KEY_FILE, ConfigError, "of keys").decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    keys = set()
    for number, line in enumerate(lines, 1):
        if line.startswith("sha256:"):
            digest = line.removeprefix("sha256:").lower()
            if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
                raise ConfigError(f"{path}: key {number}: expected 64 hexadecimal digits after sha256:")
            keys.add(digest)
        elif len(line) < 16:
            raise ConfigError(f"{path}: key {number} has {len(line)} characters; use 16 or more")
        else:
            keys.add(hashlib.sha256(line.encode()).hexdigest())
    if not keys:
        raise ConfigError(f"{path} holds no key; write one a line")
    return frozenset(keys)


def run(
    names: Sequence[str], load: Callable[[str], Any], chosen: Settings, host: str, port: int, replicas: int | None
) -> None:
    """Serve until SIGINT or SIGTERM; the port is open once every model is loaded.  replicas: through Ray."""
    try:
        import uvicorn

        from polymodal.serve.connections import configured
        from polymodal.serve.replicas import Replicas
    except ImportError as missing:
        raise ConfigError(f"serve needs the package {missing.name}: pip install 'polymodal[serve]'") from missing
    listening = listen(host, port)
    build = partial(application, tuple(dict.fromkeys(names)), load, chosen)
    behind = None if replicas is None else Replicas(build, replicas, chosen)
    app: Any = build() if behind is None else behind.app()
    server = uvicorn.Server(configured(app, chosen))
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listening.getsockname()[1]}"
    print(
        f"serving {', '.join(dict.fromkeys(names))}: {address} in a browser, {address}/v1 for clients; Ctrl-C stops it",
        file=sys.stderr,
        flush=True,
    )
    try:
        server.run(sockets=[listening])
    except SystemExit:
        # Ray answers SIGTERM so, when uvicorn, which has drained by then, raises it again.
        if behind is None:
            raise
    finally:
        if behind is not None:
            behind.close()


def application(names: Sequence[str], load: Callable[[str], Any], chosen: Settings) -> Any:
    """The application that serves these models, loaded."""
    from polymodal.serve.app import create_app
    from polymodal.serve.models import ServedModel

    models = {name: ServedModel(name, served(load(name)), chosen) for name in names if name != KOKORO}
    return create_app(models, chosen, {KOKORO: open_speaker()} if KOKORO in names else {})


def served(model: Any) -> Any:
    """The model; raises ConfigError for one that no route of the server asks."""
    if not OFFERED & set(model.can):
        instead = f"it can {', '.join(model.can) or 'do nothing by itself'}"
        if "agent" in model.can:
            instead = "`polymodal chat` begins a conversation with it"
        raise ConfigError(
            f"{model.name} cannot be served: the server offers {', '.join(sorted(OFFERED))}, and {instead}"
        )
    return model


def open_speaker() -> ServedSpeaker:
    """Kokoro, whose words are read by a child process; with progress while it is fetched."""
    import torch

    from polymodal.cli.output import transfers
    from polymodal.pipelines.speaking.speaker import Speaker
    from polymodal.serve.isolation import Decoders
    from polymodal.serve.speech import ServedSpeaker

    decoders = Decoders(children=1)
    with transfers() as report:
        speaker = Speaker.open(threads=torch.get_num_threads(), ipa=decoders.ipa, progress=report)
    decoders.ipa("hello", "en-us")  # without eSpeak NG the server does not start
    return ServedSpeaker(KOKORO, speaker, decoders)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.  Raises ConfigError where the address is taken or not this machine's."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(1024)
    except OSError as problem:
        raise ConfigError(
            f"cannot listen at {host}:{port}: {problem.strerror or problem}; try another --port"
        ) from problem
    listening.set_inheritable(True)
    return listening
