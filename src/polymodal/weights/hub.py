"""Repositories of a hub, found in the user's own hub cache or fetched into `hub/` in our cache folder.

Traps: `revision` may be a branch, then the file can change over time: the record's sha256 tells.  A listing is a
server's word: names that lead out of the repository are refused, all files are of one commit.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from polymodal.errors import WeightsError
from polymodal.files import parse_json, read_json
from polymodal.weights.cache import home, is_offline, write_whole
from polymodal.weights.connection import Refused
from polymodal.weights.hub_files import LARGE, endpoint, explained, fetch_file
from polymodal.weights.names import is_name, is_word, shown
from polymodal.weights.network import Progress, get
from polymodal.weights.network_limits import how_to_change
from polymodal.weights.source import Source
from polymodal.weights.verified import require_unchanged, verify_outside


def find_hub(source: Source) -> Path | None:
    """The file in our hub folder or in the user's hub cache; no network."""
    from huggingface_hub import try_to_load_from_cache

    for folder in (home() / "hub", None):
        found = try_to_load_from_cache(source.name, source.file, cache_dir=folder, revision=source.revision)
        if isinstance(found, str) and Path(found).is_file():
            require_unchanged(Path(found))
            try:
                verify_outside(source, Path(found))
            except WeightsError:
                # Another state of the same branch; the right one is fetched.
                continue
            return Path(found)
    return None


def fetch_hub(source: Source, progress: Progress | None = None) -> Path:
    """Download a file and verify it, against the hub's own hash and the record's."""
    try:
        path = fetch_file(source, progress)
    except WeightsError as error:
        raise explained(source, error) from error
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
    try:
        commit, every = _listed(config)
    except WeightsError as error:
        raise explained(config, error) from error
    folder = None
    for each in _wanted(every, f"hub {name}@{revision}"):
        path = fetch_hub(Source(kind="hub", name=name, revision=commit, file=each), progress)
        # Files of sub-folders lie deeper than the repository's own folder.
        if folder not in (None, path.parents[each.count("/")]):
            raise Refused(f"hub {name}@{revision}: the hub answers with files of several commits")
        folder = path.parents[each.count("/")]
        if each == config.file and check is not None:
            check(path)
    assert folder is not None, "a repository without weights was refused"
    write_whole(_mark(name, revision), str(folder))
    return folder


def _listed(source: Source) -> tuple[str, list[str]]:
    """(commit, names of all files) of a repository, as the hub lists them."""
    address, network = endpoint()
    url = f"{address}/api/models/{source.name}/revision/{urllib.parse.quote(source.revision, safe='')}"
    body, _, _ = get(url, network, "application/json", source.name)
    found = parse_json(body, f"the hub's listing of {source.name}")
    siblings = found.get("siblings") if isinstance(found, dict) else None
    listed = siblings if isinstance(siblings, list) else []
    names = [each["rfilename"] for each in listed if isinstance(each, dict) and isinstance(each.get("rfilename"), str)]
    if not isinstance(siblings, list) or len(names) != len(siblings):
        raise Refused("the hub's answer is no listing of a repository; check HF_ENDPOINT and the proxy")
    if len(names) > network.limits.members:
        raise Refused(f"the repository lists {len(names):,} files ({how_to_change('members', len(names))})")
    commit = found.get("sha") or source.revision
    if not is_word(commit):
        raise Refused(f"the hub names the commit {shown(commit)}, which is none")
    return commit, names


def _wanted(every: list[str], label: str) -> list[str]:
    """Which files are fetched, the config first.  Raises WeightsError: no weights among them, names that are none."""
    names = [each for each in every if each.endswith(FETCHED)]
    for each in names:
        if not is_name(each):
            raise Refused(f"{label}: lists the file {shown(each)}, which is no name inside a repository")
    if any(each.endswith(".safetensors") for each in names):
        names = [each for each in names if not each.endswith(TORCH)]
    if not any(each.endswith(LARGE) for each in names):
        packed = [each for each in every if each.endswith(".gguf") and is_name(each)]
        hint = f" but GGUF files ({', '.join(packed[:3])}); download one, with its mmproj, and load its folder"
        raise WeightsError(f"{label}: the repository holds no weights{hint if packed else ''}")
    return sorted(dict.fromkeys(names), key=lambda each: each != "config.json")


def find_repository(name: str, revision: str) -> Path | None:
    """The folder of a checkpoint that was fetched whole, by us or into the user's hub cache; no network.

    Raises WeightsError for a folder with a file that was changed since we downloaded it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        marked = Path(_mark(name, revision).read_text(encoding="utf-8"))
    except (OSError, UnicodeError):
        marked = None
    if marked is not None and _is_whole(marked):
        for path in marked.rglob("*"):
            if path.is_file():
                require_unchanged(path)
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
    files = {path.name for path in folder.rglob("*") if path.is_file()}
    indexes = [path for path in folder.glob("*.index.json") if not path.name.startswith("pytorch_model")]
    indexes = indexes or list(folder.glob("pytorch_model*.index.json"))
    try:
        shards = {shard for path in indexes for shard in _shards(read_json(path))}
    except WeightsError:
        return False
    return any(each.endswith(LARGE) for each in files) and shards <= files


def _shards(index: Any) -> set[str]:
    """The files that an index names; raises WeightsError for one that names something else."""
    named = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(named, dict) or not all(is_name(each) for each in named.values()):
        raise WeightsError("the index names files that are none")
    return set(named.values())
