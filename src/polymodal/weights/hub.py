"""Files of the Hugging Face hub, through huggingface_hub as the user has configured it (token, mirror,
offline).

A file that the user's own hub cache holds already is used from there; otherwise it goes to `hub/` in our
cache folder. The library resumes and stores by content; we add the record's hash, the progress callback and
messages of one line.

Traps: `revision` may be a branch, then the file can change over time: the record's sha256 tells.
"""

from __future__ import annotations

import json
import socket
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from polymodal.errors import Unreachable, WeightsError
from polymodal.weights.cache import home, is_offline, storage_error, verify_outside, writing
from polymodal.weights.network import Progress
from polymodal.weights.source import Source, megabytes


def find_hub(source: Source) -> Path | None:
    """The file in our hub folder or in the user's hub cache; no network."""
    from huggingface_hub import try_to_load_from_cache

    for folder in (home() / "hub", None):
        found = try_to_load_from_cache(source.name, source.file, cache_dir=folder, revision=source.revision)
        if isinstance(found, str) and Path(found).is_file():
            try:
                verify_outside(source, Path(found))
            except WeightsError:
                # Another state of the same branch; the right one is fetched.
                continue
            return Path(found)
    return None


def fetch_hub(source: Source, progress: Progress | None = None) -> Path:
    """Download through huggingface_hub and verify."""
    from huggingface_hub import hf_hub_download

    _require_host(source)
    try:
        path = Path(
            hf_hub_download(
                source.name,
                source.file,
                revision=source.revision,
                cache_dir=home() / "hub",
                tqdm_class=_reporting(f"{source.name} {source.file}", progress),
            )
        )
    except Exception as error:
        # The library lets errors of its HTTP client through, whose classes change with its version.
        raise _explained(source, error) from error
    try:
        verify_outside(source, path)
    except WeightsError:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise
    return path


FETCHED = (".json", ".safetensors", ".bin", ".pt", ".pth", ".npz", ".model", ".txt", ".tiktoken", ".jinja")
"""Files of a repository that are fetched: configs, tokenizers and weights; never code."""
TORCH = (".bin", ".pt", ".pth")
HTTP_CLIENTS = ("httpx", "httpcore", "requests", "urllib3")
"""How the names of packages begin with which huggingface_hub, by its version, speaks HTTP."""
WEIGHTS = (".safetensors", ".npz", *TORCH)


def fetch_repository(
    name: str,
    revision: str,
    progress: Progress | None = None,
    offline: bool = False,
    check: Callable[[Path], None] | None = None,
) -> Path:
    """The folder of a whole published checkpoint.

    What is here already is used without a network; a branch that moved on since is not asked about again, another
    state is had by its commit.  All files are of one commit, the one the revision names when it is fetched.  Where a
    repository holds safetensors, its torch files are left out.  check(path of config.json) may refuse before
    the weights are fetched.  Raises WeightsError.
    """
    here = find_repository(name, revision)
    if here is not None:
        return here
    config = Source(kind="hub", name=name, revision=revision, file="config.json")
    if offline or is_offline():
        raise WeightsError(f"hub {name}@{revision}: not in the cache, and offline; fetch it with `polymodal pull`")
    from huggingface_hub import HfApi

    _require_host(config)
    try:
        found = HfApi().model_info(name, revision=revision)
    except Exception as error:
        raise _explained(config, error) from error
    every = [each.rfilename for each in found.siblings or ()]
    names = [each for each in every if each.endswith(FETCHED)]
    if any(each.endswith(".safetensors") for each in names):
        names = [each for each in names if not each.endswith(TORCH)]
    if not any(each.endswith(WEIGHTS) for each in names):
        packed = [each for each in every if each.endswith(".gguf")]
        hint = f" but GGUF files ({', '.join(packed[:3])}); download one, with its mmproj, and load its folder"
        raise WeightsError(f"hub {name}@{revision}: the repository holds no weights{hint if packed else ''}")
    commit = found.sha or revision
    names.sort(key=lambda each: each != config.file)
    for each in names:
        path = fetch_hub(Source(kind="hub", name=name, revision=commit, file=each), progress)
        # Files of sub-folders lie deeper than the repository's own folder.
        folder = path.parents[each.count("/")]
        if each == config.file and check is not None:
            check(path)
    with writing(_mark(name, revision)):
        _mark(name, revision).parent.mkdir(parents=True, exist_ok=True)
        _mark(name, revision).write_text(str(folder), encoding="utf-8")
    return folder


def find_repository(name: str, revision: str) -> Path | None:
    """The folder of a checkpoint that was fetched whole, by us or into the user's hub cache; no network."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        marked = Path(_mark(name, revision).read_text(encoding="utf-8"))
    except OSError:
        marked = None
    if marked is not None and _is_whole(marked):
        return marked
    try:
        found = Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, ValueError, OSError):
        return None
    return found if _is_whole(found) else None


def _mark(name: str, revision: str) -> Path:
    """Where it is noted that a repository is whole: files are fetched by commit, and a branch's name is kept here."""
    return home() / "hub" / "whole" / f"{name}@{revision}".replace("/", "--")


def _is_whole(folder: Path) -> bool:
    """Weights are there, and every shard that an index names."""
    files = [path.name for path in folder.rglob("*") if path.is_file()]
    indexes = [path for path in folder.glob("*.index.json") if not path.name.startswith("pytorch_model")]
    indexes = indexes or list(folder.glob("pytorch_model*.index.json"))
    try:
        shards = {shard for path in indexes for shard in json.loads(path.read_text("utf-8"))["weight_map"].values()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return False
    return any(each.endswith(WEIGHTS) for each in files) and shards <= set(files)


def _require_host(source: Source) -> None:
    """Fail at once where the hub's name is unknown; the library would retry for half a minute."""
    from huggingface_hub import constants

    if urllib.request.getproxies():
        return
    address = urllib.parse.urlsplit(constants.ENDPOINT)
    try:
        socket.getaddrinfo(address.hostname, address.port or 443)
    except OSError as error:
        raise _no_answer(source) from error


def _explained(source: Source, error: Exception) -> WeightsError:
    """The library's errors in one line each."""
    from huggingface_hub import errors

    if isinstance(error, WeightsError):
        return error
    if isinstance(error, errors.GatedRepoError):
        return WeightsError(f"{source}: its owner asks for consent; accept on its page, then `hf auth login`")
    if isinstance(error, errors.RepositoryNotFoundError):
        return WeightsError(f"{source}: there is no such repository, or it is private (`hf auth login`)")
    if isinstance(error, errors.RevisionNotFoundError):
        return WeightsError(f"{source}: the repository has no revision {source.revision!r}")
    if isinstance(error, errors.LocalEntryNotFoundError):
        return _no_answer(source)
    if isinstance(error, errors.EntryNotFoundError):
        return WeightsError(f"{source}: the repository has no file {source.file!r}")
    if isinstance(error, errors.HfHubHTTPError | ConnectionError):
        # An answer below 500 is about what was asked for; the rest is the network or the server.
        answered = isinstance(error, errors.HfHubHTTPError) and error.response.status_code < 500
        kind = WeightsError if answered else Unreachable
        return kind(f"{source} ({megabytes(source.size)}): {str(error).splitlines()[0]}")
    if type(error).__module__.startswith(HTTP_CLIENTS):
        return _no_answer(source)
    if isinstance(error, OSError):
        return storage_error(home() / "hub", error)
    return WeightsError(f"{source}: {type(error).__name__}: {error}".splitlines()[0])


def _no_answer(source: Source) -> Unreachable:
    kept = "; what was fetched is kept, the same command goes on from there" if _is_begun(source) else ""
    return Unreachable(
        f"{source} ({megabytes(source.size)}): no answer from the hub; check the network, or set HF_ENDPOINT to a "
        f"mirror, or copy the file into a hub cache{kept}"
    )


def _is_begun(source: Source) -> bool:
    """Whether a part of some file of the repository was fetched, which the library continues."""
    blobs = home() / "hub" / f"models--{source.name.replace('/', '--')}" / "blobs"
    return any(blobs.glob("*.incomplete"))


def _reporting(label: str, progress: Progress | None) -> Any:
    """A silent stand-in for the library's progress bar that calls `progress`."""
    from huggingface_hub.utils import tqdm

    class Reporting(tqdm):  # type: ignore[misc, type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            self.seen = options.get("initial") or 0
            self.whole = options.get("total")
            super().__init__(*args, **(options | {"disable": True}))

        def update(self, n: float | None = 1) -> bool | None:
            self.seen += int(n or 0)
            if progress is not None:
                progress(label, self.seen, self.whole)
            return None

    return Reporting
