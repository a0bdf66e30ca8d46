"""A small web server on this machine whose pages can misbehave."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """One address: its body and how the server misbehaves.

    ranges: honour Range.  cut: close the connection after so many bytes, the first `cuts` times.  fail: statuses to
    answer first.
    """

    body: bytes
    kind: str = "application/octet-stream"
    ranges: bool = True
    etag: str = '"one"'
    cut: int = 0
    cuts: int = 0
    fail: list[int] = field(default_factory=list)


@dataclass
class Site:
    """A running server: its address, its pages and the requests it has seen as (path, Range, Authorization)."""

    url: str
    pages: dict[str, Page]
    seen: list[tuple[str, str | None, str | None]]


def handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, status: int, body: bytes, headers: dict[str, str], sent: int | None = None) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body if sent is None else body[:sent])
            self.close_connection = sent is not None

        def do_GET(self) -> None:
            wanted = self.headers["Range"]
            site.seen.append((self.path, wanted, self.headers["Authorization"]))
            page = site.pages.get(self.path)
            if page is None:
                return self.answer(404, b"no", {})
            if page.fail:
                return self.answer(page.fail.pop(0), b"later", {})
            headers = {"Content-Type": page.kind, "ETag": page.etag}
            body, status = page.body, 200
            same = self.headers["If-Range"] in (None, page.etag)
            if wanted and page.ranges and same:
                first = int(wanted.removeprefix("bytes=").partition("-")[0])
                total = len(page.body)
                if first >= total:
                    return self.answer(416, b"", {"Content-Range": f"bytes */{total}"})
                body, status = page.body[first:], 206
                headers["Content-Range"] = f"bytes {first}-{total - 1}/{total}"
            if page.cuts > 0:
                page.cuts -= 1
                return self.answer(status, body, headers, page.cut)
            self.answer(status, body, headers)

    return Handler


class QuietServer(ThreadingHTTPServer):
    """A client that hangs up early is part of the tests."""

    def handle_error(self, *_: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Site]:
    """A running server with no pages yet."""
    running = Site("", {}, [])
    server = QuietServer(("127.0.0.1", 0), handler(running))
    running.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield running
    server.shutdown()
    server.server_close()
    thread.join()
