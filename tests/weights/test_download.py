"""Downloads: resumed, verified, retried, honest about a full disk; against a server on this machine."""

import email.utils
import errno
import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from local_site import Page, Site, serving
from raw_server import Answer, Call, Server

from polymodal.errors import ConfigError, WeightsError
from polymodal.weights import cache, connection, network
from polymodal.weights.network import Network, NotServed, Refused, Remote, Unreachable, download, get
from polymodal.weights.network_limits import NetworkLimits

BODY = bytes(range(256)) * 4000
SHA = hashlib.sha256(BODY).hexdigest()


def offered(site: Site, page: Page, size: int | None = len(BODY), sha: str = SHA) -> Remote:
    site.pages["/file.bin"] = page
    hashes = {"sha256": sha} if sha else {}
    return Remote(url=site.url + "/file.bin", label="file 1.0", hashes=hashes, size=size)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file.bin"


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def test_whole_file_with_true_progress(site: Site, target: Path):
    calls: list[tuple[str, int, int | None]] = []
    download(offered(site, Page(BODY), size=None), target, Network(), lambda *call: calls.append(call))
    assert target.read_bytes() == BODY
    assert [path.name for path in target.parent.iterdir() if path.is_file()] == ["file.bin"]
    counts = [done for _, done, _ in calls]
    assert counts == sorted(counts) and counts[-1] == len(BODY)
    assert {(label, total) for label, _, total in calls} == {("file 1.0", len(BODY))}


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_interrupted_download_continues(site: Site, target: Path, ranges: bool):
    """The connection breaks twice; a server with Range sends the rest only, one without sends all again."""
    remote = offered(site, Page(BODY, ranges=ranges, cut=300_000, cuts=2))
    download(remote, target, Network())
    assert target.read_bytes() == BODY
    asked = [wanted for _, wanted, _ in site.seen]
    assert asked[0] is None and asked[1] == "bytes=300000-"
    assert asked[2] == ("bytes=600000-" if ranges else "bytes=300000-")


def test_a_later_run_continues_the_partial_file(site: Site, target: Path):
    remote = offered(site, Page(BODY, cut=100_000, cuts=1))
    site.pages["/file.bin"].fail = []
    with pytest.raises(WeightsError, match=r"stopped at 0.1 MB of 1.0 MB .*partial file is kept.*same command"):
        download(remote, target, Network(tries=1))
    assert part_of(target).stat().st_size == 100_000 and not target.exists()
    counts: list[int] = []
    download(remote, target, Network(), lambda _, done, total: counts.append(done))
    assert target.read_bytes() == BODY and counts[0] > 100_000 and site.seen[-1][1] == "bytes=100000-"


def test_a_complete_partial_file_needs_no_second_transfer(site: Site, target: Path):
    part_of(target).write_bytes(BODY)
    download(offered(site, Page(BODY)), target, Network())
    assert target.read_bytes() == BODY and site.seen == []
    part_of(target).write_bytes(BODY)
    download(offered(site, Page(BODY), size=None), target, Network())
    assert target.read_bytes() == BODY and len(site.seen) == 1


def test_a_partial_file_of_something_else_is_begun_anew(site: Site, target: Path):
    part_of(target).write_bytes(b"x" * 5000)
    download(offered(site, Page(BODY)), target, Network())
    assert target.read_bytes() == BODY
    part_of(target).write_bytes(b"x" * (len(BODY) + 7))
    download(offered(site, Page(BODY), size=None), target, Network())
    assert target.read_bytes() == BODY


def test_a_file_that_changed_on_the_server_is_not_mixed(site: Site, target: Path):
    old = bytes(len(BODY))
    with pytest.raises(WeightsError):
        download(offered(site, Page(old, cut=9000, cuts=1, etag='"old"'), sha=""), target, Network(tries=1))
    download(offered(site, Page(BODY, etag='"new"'), sha=""), target, Network())
    assert target.read_bytes() == BODY


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 60_000), cuts=st.integers(0, 3), ranges=st.booleans(), kept=st.integers(0, 60_000))
def test_any_interruption_ends_in_the_same_bytes(tmp_path: Path, cut: int, cuts: int, ranges: bool, kept: int):
    body = BODY[:50_000]
    target = tmp_path / "file.bin"
    part_of(target).write_bytes(body[:kept])
    with serving() as site:
        site.pages["/f"] = Page(body, cut=min(cut, 49_999), cuts=cuts, ranges=ranges)
        sha = hashlib.sha256(body).hexdigest()
        remote = Remote(url=site.url + "/f", label="f", hashes={"sha256": sha}, size=len(body))
        download(remote, target, Network(tries=6))
    assert target.read_bytes() == body


def test_a_file_with_a_wrong_hash_is_removed(site: Site, target: Path):
    with pytest.raises(WeightsError, match=r"expected sha256 0000.*the file was removed, try again.*do not trust"):
        download(offered(site, Page(BODY), sha="0" * 64), target, Network())
    assert list(target.parent.iterdir()) == []


def test_wrong_size(site: Site, target: Path):
    with pytest.raises(WeightsError, match="expected 5 bytes, found 1024000"):
        download(offered(site, Page(BODY), size=5, sha=""), target, Network())


def test_full_disk_keeps_the_partial_file(site: Site, target: Path, monkeypatch: pytest.MonkeyPatch):
    write, written = network.write_block, []

    def full(file, block):
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(len(block))
        write(file, block)

    monkeypatch.setattr(network, "write_block", full)
    remote = offered(site, Page(BODY))
    with pytest.raises(WeightsError, match=r"the disk is full at .* the partial file is kept; free some space"):
        download(remote, target, Network())
    assert part_of(target).stat().st_size == sum(written)
    monkeypatch.setattr(network, "write_block", write)
    download(remote, target, Network())
    assert target.read_bytes() == BODY and site.seen[-1][1] == f"bytes={sum(written)}-"


def test_too_little_room_is_said_before_the_download(site: Site, target: Path, monkeypatch: pytest.MonkeyPatch):
    room = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: room)
    with pytest.raises(WeightsError, match=r"1.0 MB are needed and 0.0 MB are free"):
        download(offered(site, Page(BODY)), target, Network())
    assert site.seen == []


def test_folder_that_cannot_be_written(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(WeightsError, match=r"cannot be written: Permission denied.*POLYMODAL_HOME"):
        download(offered(site, Page(BODY)), tmp_path / "f", Network())


def test_busy_server_is_asked_again(site: Site, target: Path):
    download(offered(site, Page(BODY, fail=[503, 429, 500])), target, Network(tries=4))
    assert target.read_bytes() == BODY and len(site.seen) == 4
    with pytest.raises(Unreachable, match="status 503"):
        download(offered(site, Page(BODY, fail=[503] * 9)), target.with_name("g"), Network(tries=3))


def test_a_busy_server_says_how_long_to_wait(target: Path, monkeypatch: pytest.MonkeyPatch):
    """Seconds or a date, obeyed up to a limit on all of them together."""
    waits: list[float] = []
    monkeypatch.setattr(connection.time, "sleep", waits.append)
    soon = email.utils.format_datetime(datetime.now(UTC) + timedelta(seconds=40))
    asked = ["7", soon, "100"]

    def busy(_: Call) -> Answer:
        return Answer(503, (("Retry-After", asked.pop(0)),)) if asked else Answer(200, (), BODY)

    server = Server("busy", "127.0.0.1", busy)
    remote = Remote(url=server.address + "/f", label="f")
    with pytest.raises(Refused, match=r"asks to come back in 100 s \(NetworkLimits.retry_after; .*=retry_after=1\d\d"):
        download(remote, target, Network())
    assert waits[0] == 7 and 35 <= waits[1] <= 40 and len(waits) == 2
    asked[:] = ["7", soon, "100"]
    download(remote, target, Network(limits=NetworkLimits(retry_after=200)))
    assert target.read_bytes() == BODY and waits[4] == 100
    server.close()


def test_the_minimum_rate(monkeypatch: pytest.MonkeyPatch):
    """An average over a minute, over and over; what a server asked to wait does not count."""
    time = [0.0]
    monkeypatch.setattr(connection.time, "sleep", lambda seconds: time.__setitem__(0, time[0] + seconds))
    clock = connection.Clock(NetworkLimits(), now=lambda: time[0])
    for minute in range(3):
        for second in range(60):
            time[0] = 60 * minute + second + 1
            clock.count(1001)
    clock.wait("100", 0.5)
    time[0] += 59
    clock.count(1)
    time[0] += 1
    with pytest.raises(Refused, match=r"sent 0 bytes a second for 60 s, at least 1000 are expected"):
        clock.count(1)


def test_limits_of_the_network(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("POLYMODAL_NETWORK_LIMITS", "rate=1,page_bytes=2e9")
    assert Network().limits == NetworkLimits(rate=1.0, page_bytes=2_000_000_000)
    for text in ("speed=1", "rate=fast", "rate=0", "page_bytes=1e999"):
        monkeypatch.setenv("POLYMODAL_NETWORK_LIMITS", text)
        with pytest.raises(ConfigError, match="expected NAME=NUMBER, positive, with a name of"):
            Network()


def test_refusals_are_not_repeated(site: Site, target: Path):
    for status in (403, 404):
        site.seen.clear()
        with pytest.raises(NotServed, match=f"answered {status}") as caught:
            download(offered(site, Page(BODY, fail=[status] * 9)), target, Network())
        assert caught.value.status == status and len(site.seen) == 1


def test_no_server_and_no_network(target: Path):
    with serving() as site:
        closed = site.url
    for url in (closed, "http://models.example"):
        with pytest.raises(Unreachable, match="no answer from") as caught:
            download(Remote(url=url + "/f", label="file 1.0"), target, Network())
        assert "\n" not in str(caught.value)
    with pytest.raises(Unreachable, match="page: no answer"):
        get(closed, Network(), "text/html", "page")


def test_passwords_reach_their_host_and_no_message(site: Site, target: Path):
    site.pages["/f"] = Page(BODY)
    secret = site.url.replace("http://", "http://me:sesame%21@")
    download(Remote(url=secret + "/f", label="f"), target, Network())
    assert site.seen[0][2] == "Basic bWU6c2VzYW1lIQ=="
    with pytest.raises(WeightsError) as caught:
        download(Remote(url=secret + "/absent", label="f"), target, Network())
    assert "sesame" not in str(caught.value)


def test_certificates_come_from_the_configuration(tmp_path: Path):
    with pytest.raises(WeightsError, match="configured certificate file cannot be read"):
        get("https://models.example/", Network(cert=str(tmp_path / "none.pem")), "*/*", "x")
    assert connection.context("", True).verify_mode == ssl.CERT_NONE
    assert connection.context("", False).verify_mode == ssl.CERT_REQUIRED
