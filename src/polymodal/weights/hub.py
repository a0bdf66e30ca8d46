"""Files of the Hugging Face hub, through huggingface_hub as the user has configured it (token, mirror,
offline).

A file that the user's own hub cache holds already is used from there; otherwise it goes to `hub/` in our
cache folder. The library resumes and stores by content; we add the record's hash, the progress callback and
messages of one line.

Traps: `revision` may be a branch, then the file can change over time: the record's sha256 tells.
"""

from __future__ import annotations

import socket
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from polymodal.errors import WeightsError
from polymodal.weights.cache import home, storage_error, verify_outside
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
    from huggingface_hub import errors, hf_hub_download

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
    except errors.GatedRepoError as error:
        raise WeightsError(
            f"{source}: its owner asks for consent; accept on its page, then `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise WeightsError(
            f"{source}: there is no such repository, or it is private (`hf auth login`)"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise WeightsError(f"{source}: the repository has no revision {source.revision!r}") from error
    except errors.LocalEntryNotFoundError as error:
        raise _no_answer(source) from error
    except errors.EntryNotFoundError as error:
        raise WeightsError(f"{source}: the repository has no file {source.file!r}") from error
    except (errors.HfHubHTTPError, ConnectionError) as error:
        raise WeightsError(f"{source} ({megabytes(source.size)}): {str(error).splitlines()[0]}") from error
    except OSError as error:
        raise storage_error(home() / "hub", error) from error
    except Exception as error:
        # The library lets errors of its HTTP client through, whose classes change with its version.
        raise WeightsError(f"{source}: {type(error).__name__}: {error}".splitlines()[0]) from error
    try:
        verify_outside(source, path)
    except WeightsError:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise
    return path


WANTED = ("*.json", "*.safetensors", "*.bin", "*.pt", "*.pth", "*.model", "*.txt", "*.jinja")
"""Files of a repository that are fetched: configs, tokenizers and weights; never code."""


def fetch_repository(name: str, revision: str, progress: Progress | None = None, offline: bool = False) -> Path:
    """The folder of a whole published checkpoint; what is here already is not fetched again.

    Where a repository holds safetensors, its torch files are left out.  Raises WeightsError.
    """
    from huggingface_hub import HfApi, snapshot_download

    source = Source(kind="hub", name=name, revision=revision, file="config.json")
    options: dict[str, Any] = {"revision": revision, "cache_dir": home() / "hub"}
    try:
        if offline:
            return Path(snapshot_download(name, local_files_only=True, **options))
        _require_host(source)
        names = HfApi().list_repo_files(name, revision=revision)
        safe = any(each.endswith(".safetensors") for each in names)
        skipped = ["*.bin", "*.pt", "*.pth"] if safe else []
        bar = _reporting(name, progress)
        return Path(
            snapshot_download(name, allow_patterns=list(WANTED), ignore_patterns=skipped, tqdm_class=bar, **options)
        )
    except WeightsError:
        raise
    except OSError as error:
        # The library's own errors are OSErrors too: no such repository, no consent, no network.
        raise WeightsError(f"hub {name}@{revision}: {str(error).splitlines()[0]}") from error
    except Exception as error:
        raise WeightsError(f"hub {name}@{revision}: {type(error).__name__}: {error}".splitlines()[0]) from error


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


def _no_answer(source: Source) -> WeightsError:
    return WeightsError(
        f"{source} ({megabytes(source.size)}): no answer from the hub; check the network, or set HF_ENDPOINT to a "
        "mirror, or copy the file into a hub cache"
    )


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
