"""One file of the Hugging Face hub or of a mirror of it, as the user has configured them (endpoint, token, offline).

flow:  HEAD .../resolve/<revision>/<file> -> commit, hash and size -> blobs/<hash>, verified ->
snapshots/<commit>/<file>

The folders are those of the hub's own client, which reads what is fetched here and the other way round:
    hub/models--<owner>--<name>/blobs/<hash>  snapshots/<commit>/<file> -> ../../blobs/<hash>  refs/<branch> = commit

Traps: commit and ETag are a server's words, and a mirror's may be anything: a commit becomes a path only when it is
one plain word; an ETag only when it is a hash (sha256, or git's sha1 for small files), and then the bytes must have
it.  Any other ETag promises nothing, and the blob has a name of ours.  The token goes to the endpoint alone, never to
where it redirects.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polymodal.errors import Unreachable, WeightsError
from polymodal.weights.cache import digest_note, digests, home, is_offline, locked, staged, write_whole, writing
from polymodal.weights.connection import Network, Refused
from polymodal.weights.names import is_word, shown
from polymodal.weights.network import NotServed, Progress, Remote, ask, download
from polymodal.weights.network_limits import how_to_change
from polymodal.weights.source import Source, megabytes
from polymodal.weights.verified import digest_of, note_digest, noted_digest

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HASH = re.compile(r"[0-9a-f]{64}|[0-9a-f]{40}")
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
LARGE = (".safetensors", ".npz", ".bin", ".pt", ".pth")
"""Endings of weights; every other file of a repository is small."""


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a hub says of a file: `promise` is the hash of its bytes, or '', `etag` its own word; `size` in bytes."""

    commit: str
    promise: str
    etag: str
    size: int | None


def endpoint() -> tuple[str, Network]:
    """The hub's address and how to reach it.  Raises Unreachable where the user wants no network."""
    from huggingface_hub import constants, get_token

    if is_offline() or constants.HF_HUB_OFFLINE:
        raise Unreachable("offline work was asked for (POLYMODAL_OFFLINE or HF_HUB_OFFLINE)")
    token = "" if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token() or ""
    if not re.fullmatch(r"[!-~]*", token):
        raise WeightsError(
            "the stored hub token holds a character that no token has; log in again with `hf auth login`"
        )
    cert = next((value for name in _BUNDLES if os.path.isfile(value := os.environ.get(name, ""))), "")
    proxies = urllib.request.getproxies()
    proxy = "" if {"http", "https"} & set(proxies) else proxies.get("all", "")
    network = Network(
        cert=cert, proxy=proxy if proxy.startswith("http") else "", token=token, token_for=constants.ENDPOINT
    )
    return constants.ENDPOINT.rstrip("/"), network


def folder_of(name: str) -> Path:
    """Where the files of a repository lie."""
    return home() / "hub" / f"models--{name.replace('/', '--')}"


def fetch_file(source: Source, progress: Progress | None = None) -> Path:
    """Download one file, verified against the hash that the hub promises; raises what `explained` explains.

    What a try that was given up has left is used only when it has that hash: it may come from another server.
    """
    address, network = endpoint()
    revision, file = urllib.parse.quote(source.revision, safe=""), urllib.parse.quote(source.file)
    url = f"{address}/{source.name}/resolve/{revision}/{file}"
    described = describe(url, source, network)
    remote = Remote(
        url=url,
        label=f"{source.name} {source.file}",
        hashes=_hashes(described.promise),
        size=described.size,
        ceiling=ceiling(source),
    )
    limit = getattr(network.limits, remote.ceiling)
    if described.size is not None and described.size > limit:
        needed = how_to_change(remote.ceiling, described.size)
        raise Refused(f"the file has {described.size:,} bytes, the limit is {limit:,} ({needed})")
    # Where nothing is promised, only the same answer of the same hub leads to the same blob.
    own = hashlib.sha256(f"{url} {described.commit} {described.etag}".encode()).hexdigest()[:32]
    blob = folder_of(source.name) / "blobs" / (described.promise or own)
    with locked(home() / "hub" / ".locks" / folder_of(source.name).name / blob.name):
        if not _is_sound(blob, described):
            with writing(blob):
                blob.parent.mkdir(parents=True, exist_ok=True)
                blob.unlink(missing_ok=True)
            download(remote, blob, network, progress)
            _note(blob)
        return _place(source, described.commit, blob)


def ceiling(source: Source) -> str:
    """The limit on a file's bytes."""
    return "file_bytes" if source.file.endswith(LARGE) else "text_bytes"


def describe(url: str, source: Source, network: Network) -> Described:
    """Ask for a file's commit, hash and size.  Raises Refused for words that are none."""
    with ask(url, network, {"Accept-Encoding": "identity"}, source.name, "HEAD") as answer:
        headers = answer.headers
        commit = next(
            (found for each in (headers, *reversed(answer.redirects)) if (found := each["X-Repo-Commit"])), None
        )
        etag = headers["X-Linked-Etag"] or headers["ETag"] or ""
        length = headers["X-Linked-Size"] or (headers["Content-Length"] if answer.status == 200 else None)
    if commit is None:
        raise Refused("the answer names no commit, so it is not that of a hub; check HF_ENDPOINT and the proxy")
    if not is_word(commit):
        raise Refused(f"the hub names the commit {shown(commit)}, which is none")
    if _COMMIT.fullmatch(source.revision) and commit != source.revision:
        raise Refused(f"the hub answers with commit {shown(commit)}, {source.revision} was asked for")
    word = etag.strip().removeprefix("W/").strip('"').lower()
    size = int(length) if length and re.fullmatch(r"[0-9]{1,15}", length.strip()) else None
    return Described(commit=commit, promise=word if _HASH.fullmatch(word) else "", etag=etag, size=size)


def _hashes(promise: str) -> dict[str, str]:
    return {"sha256" if len(promise) == 64 else "git": promise} if promise else {}


def _is_sound(blob: Path, described: Described) -> bool:
    """Whether a blob is here already and is what the hub promises."""
    if not blob.is_file() or described.size not in (None, blob.stat().st_size):
        return False
    if len(described.promise) == 40:
        return described.promise in digests(blob, "git")
    return digest_of(blob) == (described.promise or noted_digest(blob))


def _note(blob: Path) -> None:
    """Write the sha256 of a verified blob beside it."""
    (digest,) = digests(blob, "sha256")
    note_digest(blob, digest)
    write_whole(digest_note(blob), digest + "\n")


def _place(source: Source, commit: str, blob: Path) -> Path:
    """Give a blob its name in the folder of its commit.

    In one step, and only where it is not there yet: who fetched the same file before may be reading it.
    """
    folder = folder_of(source.name)
    path = folder / "snapshots" / commit / source.file
    with writing(path):
        if not (path.is_symlink() and path.resolve() == blob.resolve()):
            with staged(path) as draft:
                draft.unlink()
                try:
                    draft.symlink_to(os.path.relpath(blob, path.parent))
                except OSError:  # a file system without links
                    shutil.copyfile(blob, draft)
                os.replace(draft, path)
    if commit != source.revision:
        write_whole(folder / "refs" / source.revision, commit)
    return path


def explained(source: Source, error: WeightsError) -> WeightsError:
    """An error of the network or the server in the user's words, one line."""
    if isinstance(error, NotServed):
        return WeightsError(f"{source}: {_reason(source, error)}")
    if isinstance(error, Unreachable):
        begun = any((folder_of(source.name) / "blobs").glob("*.part"))
        kept = "; what was fetched is kept, the same command goes on from there" if begun else ""
        return Unreachable(
            f"{source} ({megabytes(source.size)}): no answer from the hub ({error}); check the network, or set "
            f"HF_ENDPOINT to a mirror, or copy the file into a hub cache{kept}"
        )
    if isinstance(error, Refused) and not str(error).startswith(str(source)):
        return Refused(f"{source}: {error}")
    return error


def _reason(source: Source, error: NotServed) -> str:
    words: dict[Any, str] = {
        "GatedRepo": "its owner asks for consent; accept on its page, then `hf auth login`",
        "RepoNotFound": "there is no such repository, or it is private (`hf auth login`)",
        "RevisionNotFound": f"the repository has no revision {source.revision!r}",
        "EntryNotFound": f"the repository has no file {source.file!r}",
    }
    words |= {401: words["RepoNotFound"], 403: words["GatedRepo"], 404: "there is no such repository, revision or file"}
    return words.get(error.code) or words.get(error.status) or f"the hub answered {error.status}"
