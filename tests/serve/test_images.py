"""/v1/images/generations with OpenAI's client, over a tiny random Emu3."""

import base64
import io
import socket
import time
from collections.abc import Iterator

import openai
import pytest
from PIL import Image

import polymodal as pm
from headline_folders import captured
from polymodal.pipelines import image_generation
from polymodal.serve.app import create_app
from polymodal.serve.models import ServedModel
from served import SETTINGS, call, error_of, running


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> pm.Model:
    return pm.load(captured("emu3", tmp_path_factory.mktemp("images") / "emu3"))


@pytest.fixture(scope="module")
def address(model, clip) -> Iterator[str]:
    models = {"emu3": ServedModel("emu3", model, SETTINGS), "clip": ServedModel("clip", clip, SETTINGS)}
    with running(create_app(models, SETTINGS)) as address:
        yield address


@pytest.fixture(scope="module")
def client(address) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)


def pictures(answer) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(each.b64_json))) for each in answer.data]


def test_pictures_come_as_base64(client, model) -> None:
    answer = client.images.generate(
        model="emu3", prompt="a cat", n=2, size="8x16", response_format="b64_json", extra_body={"seed": 4}
    )
    found = pictures(answer)
    assert [(each.format, each.size) for each in found] == [("PNG", (8, 16))] * 2
    wanted = model.draw("a cat", n=2, size=(8, 16), seed=4).media["image"]
    assert [each.tobytes() for each in found] == [each.tobytes() for each in wanted]
    assert answer.usage.output_tokens == 2 * (4 * 3 + 3) and answer.usage.input_tokens > 0
    (jpeg,) = pictures(client.images.generate(model="emu3", prompt="a cat", output_format="jpeg"))
    assert (jpeg.format, jpeg.size) == ("JPEG", (16, 16))


@pytest.mark.parametrize(
    ("changes", "status", "told"),
    [
        ({"response_format": "url"}, 400, "response_format"),
        ({"size": "9x16"}, 400, "multiples of 4"),
        ({"size": "99999x99999"}, 400, "256 pixels in all"),
        ({"size": "big"}, 400, "WIDTHxHEIGHT"),
        ({"n": 9}, 400, "the limit is 8"),
        ({"n": 0}, 400, "n"),
        ({"prompt": ""}, 400, "prompt"),
        ({"prompt": "  "}, 400, "needs something"),
        ({"prompt": "a cat " * 4000}, 400, "context holds"),
        ({"seed": -1}, 400, "seed"),
        ({"style": "vivid"}, 400, "style"),
        ({"model": "clip"}, 400, "cannot draw"),
        ({"model": "dall-e-3"}, 404, "emu3"),
    ],
)
def test_what_is_not_offered_is_refused(address, changes, status, told) -> None:
    body = {"model": "emu3", "prompt": "a cat", **changes}
    found = call(address, "/v1/images/generations", body)
    assert found[0] == status and told in error_of(found)


def test_who_hangs_up_ends_the_drawing(address, model, monkeypatch) -> None:
    """A picture of 64 codes whose every id takes 50 ms, for a client that goes after the third."""
    began, ended = [], []
    paint = image_generation.paint

    def slow(*given, step, **more):
        def watched(written, whole):
            began.append(written)
            time.sleep(0.05)
            step(written, whole)

        try:
            return paint(*given, step=watched, **more)
        except BaseException as problem:
            ended.append(problem)
            raise

    monkeypatch.setattr(image_generation, "paint", slow)
    host, port = address.removeprefix("http://").split(":")
    body = b'{"model": "emu3", "prompt": "a cat"}'
    head = f"POST /v1/images/generations HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        while len(began) < 3:
            time.sleep(0.01)
    until = time.monotonic() + 5
    while not ended and time.monotonic() < until:
        time.sleep(0.01)
    assert ended and len(began) < 20
