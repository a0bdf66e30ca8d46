"""`polymodal serve --ray 2` on a local Ray cluster of two machines with one CPU each: one replica on each."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import openai
import pytest

from headline_folders import captured

ray = pytest.importorskip("ray")
pytest.importorskip("ray.serve")
KEY = "a key that nobody will guess"


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of two machines, both of them this one."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


class Server:
    """The command in a process of its own."""

    def __init__(self, cluster: str, *arguments: object) -> None:
        environment = {**os.environ, "RAY_ADDRESS": cluster}
        command = [sys.executable, "-m", "polymodal", "serve", *map(str, arguments), "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        self.said: list[str] = []
        while not (self.said and "serving" in self.said[-1]):
            self.said.append(self.process.stderr.readline())
            assert self.said[-1], self.said
        self.address = re.search(r"http://[\d.:]+", self.said[-1])[0]
        self.client = openai.OpenAI(base_url=f"{self.address}/v1", api_key=KEY, max_retries=0)

    def get(self, path: str, key: str = KEY) -> tuple[int, str]:
        request = urllib.request.Request(self.address + path, headers={"Authorization": f"Bearer {key}"})
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as problem:
            return problem.code, problem.read().decode()


@pytest.fixture(scope="module")
def server(cluster, tmp_path_factory) -> Iterator[Server]:
    folder = captured("llava_1_5", tmp_path_factory.mktemp("replicas") / "llava")
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    server = Server(cluster, folder, "--ray", 2, "--api-key-file", keys)
    server.model = str(folder)
    yield server
    server.process.kill()
    server.process.wait()


def chat(server: Server, text: str = "hello", most: int = 40, **more):
    return server.client.chat.completions.create(
        model=server.model, messages=[{"role": "user", "content": text}], max_tokens=most, **more
    )


def test_a_stream_comes_piece_by_piece(server) -> None:
    times, text = [], ""
    for chunk in chat(server, most=300, stream=True):
        times.append(time.monotonic())
        text += chunk.choices[0].delta.content or ""
    assert text == chat(server, most=300).choices[0].message.content
    assert len(times) > 20 and times[len(times) // 2] - times[0] > 0.2 * (times[-1] - times[0]) > 0


def test_keys_and_sizes_are_checked_in_front(server) -> None:
    assert server.get("/v1/models", key="wrong")[0] == 401
    assert server.get("/health", key="wrong")[0] == 200
    assert server.get("/", key="wrong")[0] == 200
    assert "polymodal_requests" in server.get("/metrics")[1]
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        chat(server, most=10**9)
    with pytest.raises(openai.NotFoundError):
        server.client.chat.completions.create(model="none", messages=[{"role": "user", "content": "a"}])


def test_many_clients_share_the_replicas(server) -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(chat(server).choices[0].message.content)) for _ in range(16)
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert len(found) == 16 and len(set(found)) == 1


def test_who_hangs_up_does_not_hold_a_replica(server) -> None:
    for _ in range(4):
        stream = chat(server, most=4000, stream=True)
        next(iter(stream))
        stream.close()
    begin = time.monotonic()
    assert chat(server, most=4).choices[0].message.content is not None
    assert time.monotonic() - begin < 10


def replicas() -> dict[str, str]:
    """Of each living replica its process and its machine, as Ray knows them."""
    from ray._private import state

    found = [each for each in state.actors().values() if "Replica" in each["ActorClassName"]]
    return {each["Pid"]: each["Address"]["NodeID"] for each in found if each["State"] == "ALIVE"}


def test_a_replica_that_dies_is_replaced(server, cluster) -> None:
    """One is on each machine; the other answers meanwhile."""
    ray.init(address=cluster, log_to_driver=False, logging_level="ERROR")
    try:
        before = replicas()
        assert len(before) == len(set(before.values())) == 2
        first = next(iter(before))
        os.kill(int(first), signal.SIGKILL)
        until, answered, refused = time.monotonic() + 60, 0, 0
        while time.monotonic() < until and not (len(replicas()) == 2 and first not in replicas()):
            try:
                answered += bool(chat(server, most=4).choices)
            except openai.InternalServerError as problem:
                assert problem.status_code == 503
                refused += 1
        assert len(replicas()) == 2 and answered > refused
    finally:
        ray.shutdown()


def test_too_few_machines_are_told(cluster) -> None:
    environment = {**os.environ, "RAY_ADDRESS": cluster}
    command = [sys.executable, "-m", "polymodal", "serve", "mini", "--ray", "9", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert done.returncode == 2 and "the cluster has 2 CPUs" in done.stderr and "Traceback" not in done.stderr


def test_sigterm_lets_what_runs_end(server) -> None:
    """Last: the server is gone afterwards."""
    stream = iter(chat(server, most=300, stream=True))
    next(stream)
    server.process.send_signal(signal.SIGTERM)
    chunks = list(stream)
    assert chunks[-1].choices[0].finish_reason in ("length", "stop") and len(chunks) > 100
    assert server.process.wait(60) in (0, -signal.SIGTERM)
    assert "Traceback" not in server.process.stderr.read()
