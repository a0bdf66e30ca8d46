"""A server under mixed load for minutes: every request is answered, and memory stays flat.

    python benchmarks/soak.py --minutes 10 [--model FOLDER] [--clients 8]

Pictures, texts, streams, wrong requests and clients that hang up, all different, so that every cache has to let go.
Prints requests, failures and the process's memory, and ends with status 1 where a reply is lost, a status is 5xx or
the second half of the time takes more memory than the first by over 20 %.
"""

import argparse
import base64
import io
import json
import random
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uvicorn
from PIL import Image

import polymodal as pm
from polymodal.engine.request import EngineLimits
from polymodal.serve.app import create_app
from polymodal.serve.connections import configured
from polymodal.serve.models import ServedModel
from polymodal.serve.settings import RequestLimits, Settings

GROWTH = 1.2


@dataclass
class Soak:
    """What happened.  memory: (seconds, resident bytes)."""

    answered: dict[int, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)

    @property
    def growth(self) -> float:
        """The largest memory of the last quarter over that of the second one; the first warms up."""
        quarter = len(self.memory) // 4
        return max(size for _, size in self.memory[-quarter:]) / max(s for _, s in self.memory[quarter : 2 * quarter])

    @property
    def failures(self) -> int:
        """Statuses of 5xx and replies that did not come."""
        return len(self.lost) + sum(count for status, count in self.answered.items() if status >= 500)


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def request(name: str, rng: random.Random) -> dict:
    """A request like no other."""
    words = " ".join("".join(rng.choice("abcdefgh") for _ in range(5)) for _ in range(rng.randint(1, 30)))
    content: list[dict] = [{"type": "text", "text": words}]
    if rng.random() < 0.4:
        file = io.BytesIO()
        pixels = np.frombuffer(rng.randbytes(48 * 48 * 3), np.uint8).reshape(48, 48, 3)
        Image.fromarray(pixels).save(file, "PNG")
        url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
        content.insert(0, {"type": "image_url", "image_url": {"url": url}})
    if rng.random() < 0.1:
        content.append({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}})  # no picture
    messages = [{"role": "user", "content": content}]
    return {"model": name, "messages": messages, "max_tokens": rng.randint(1, 24), "stream": rng.random() < 0.5}


def hang_up(address: str, body: bytes) -> None:
    """Ask, and go away."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as line:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        time.sleep(0.01)


def client(address: str, name: str, number: int, until: float, soak: Soak, lock: threading.Lock) -> None:
    """Requests one after another until the time is over."""
    rng = random.Random(number)
    while time.monotonic() < until:
        given = request(name, rng)
        body = json.dumps(given).encode()
        if rng.random() < 0.05:
            hang_up(address, body)
            continue
        asked = urllib.request.Request(
            f"{address}/v1/chat/completions", body, {"Content-Type": "application/json"}, method="POST"
        )
        lost = ""
        try:
            with urllib.request.urlopen(asked, timeout=300) as answer:
                status, text = answer.status, answer.read()
            if given["stream"] and not text.endswith(b"data: [DONE]\n\n"):
                lost = f"a stream ends with {text[-100:]!r}"
        except urllib.error.HTTPError as problem:
            status = problem.code
        except OSError as problem:
            status, lost = 0, repr(problem)
        with lock:
            soak.answered[status] = soak.answered.get(status, 0) + 1
            soak.lost += [lost] if lost else []


def run(model: pm.Model, seconds: float, clients: int = 8) -> Soak:
    """Serve the model to `clients` for a while."""
    # Caches are small, so that they are full early.
    engine = EngineLimits(rows=8, prefix_bytes=4 * 2**20)
    settings = Settings(requests=RequestLimits(max_tokens=64), engine=engine)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    app = create_app({"m": ServedModel("m", model, settings)}, settings)
    server = uvicorn.Server(configured(app, settings))
    serving = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    serving.start()
    soak, lock, begin = Soak(), threading.Lock(), time.monotonic()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    threads = [
        threading.Thread(target=client, args=(address, "m", number, begin + seconds, soak, lock))
        for number in range(clients)
    ]
    while not server.started:
        time.sleep(0.01)
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        soak.memory.append((time.monotonic() - begin, resident()))
        time.sleep(min(1.0, seconds / 40))
    server.should_exit = True
    serving.join(60)
    return soak


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args()
    soak = run(pm.load(given.model), given.minutes * 60, given.clients)
    for seconds, size in soak.memory[:: max(1, len(soak.memory) // 20)]:
        print(f"{seconds:7.0f} s {size / 2**20:8.0f} MiB")
    statuses = ", ".join(f"{status}: {count:,}" for status, count in sorted(soak.answered.items()))
    print(f"answers by status: {statuses}; lost: {len(soak.lost)}; memory late over early: {soak.growth:.3f}")
    for each in soak.lost[:5]:
        print(each)
    return 1 if soak.failures or soak.growth > GROWTH else 0


if __name__ == "__main__":
    sys.exit(main())
