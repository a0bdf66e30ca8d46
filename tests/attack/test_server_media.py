"""Media of strangers through a server: bombs, damaged files and twins.  It stays alive, and answers 200 or 4xx."""

import base64
import io
import json
import urllib.error
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image as Pillow
from test_media_bombs import BOMBS
from test_mutated_media import PICTURES, SOUNDS, VIDEOS, mutated, sample

import polymodal as pm
from headline_folders import captured
from polymodal.serve.app import create_app
from polymodal.serve.models import ServedModel
from polymodal.serve.settings import RequestLimits, Settings
from served import call, error_of, running

# A body of 16 MB, so that a bomb that must be large is refused by its size.
SETTINGS = Settings(hosts=frozenset({"127.0.0.1"}), requests=RequestLimits(max_tokens=4, body=16_000_000))


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[tuple[str, ServedModel]]:
    """(address, a tiny Video-LLaMA, which takes pictures, sound and video)."""
    model = ServedModel("m", pm.load(captured("video_llama", tmp_path_factory.mktemp("bombs") / "v")), SETTINGS)
    with running(create_app({"m": model}, SETTINGS)) as address:
        yield address, model


def part(kind: str, data: bytes, name: str = "png"):
    text = base64.b64encode(data).decode()
    if kind == "audio":
        return {"type": "input_audio", "input_audio": {"data": text, "format": name}}
    return {"type": f"{kind}_url", f"{kind}_url": {"url": f"data:{kind}/{name};base64,{text}"}}


def ask(address: str, *parts, tokens: int = 1):
    content = [*parts, {"type": "text", "text": "what?"}]
    body = {"model": "m", "messages": [{"role": "user", "content": content}], "max_tokens": tokens}
    return call(address, "/v1/chat/completions", body)


def fine(found) -> None:
    """An answer, or a refusal in one line; no trace and no address anywhere."""
    status, body = found
    text = json.dumps(body)
    assert "Traceback" not in text and "0x" not in text
    if status != 200:
        error_of(found)


def kind_of(name: str) -> str:
    """As which kind of media a stranger would send it."""
    if name.startswith(("flac", "wav", "ogg", "mp3", "mp4 of sound")):
        return "audio"
    return "video" if name.startswith(("mp4", "video", "matroska")) else "image"


def test_there_are_bombs_enough() -> None:
    assert len(BOMBS) >= 20


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_cost_one_request(attack, served, name) -> None:
    data = BOMBS[name][0]()
    with attack.one(name, 30, 700):
        try:
            fine(ask(served[0], part(kind_of(name), data)))
        except urllib.error.URLError:  # the server hung up on a body that is far too large
            assert len(data) * 4 / 3 > SETTINGS.requests.body
    assert call(served[0], "/health")[0] == 200


def test_mutated_media_are_answered_or_refused(attack, served) -> None:
    names = PICTURES * 2 + SOUNDS + VIDEOS
    for index, rng in attack.inputs(60):
        name = names[index % len(names)]
        data = mutated(sample(name), sample(rng.choice(names)), rng)
        kind = "image" if name in PICTURES else "audio" if name in SOUNDS else "video"
        with attack.one(f"{name} {index}", seconds=60, megabytes=500):
            fine(ask(served[0], part(kind, data, name)))
    assert ask(served[0], part("image", sample("png")))[0] == 200
    engines = served[1].engines
    assert not any(engine.running + engine.waiting for engine in engines), "nothing is left behind"


def png(picture: Pillow.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def twins() -> dict[str, tuple[bytes, bytes]]:
    """Pairs of pictures that are not the same, though much of them is."""
    rng = np.random.default_rng(5)
    indices = rng.integers(0, 2, (32, 32), dtype=np.uint8)
    first, second = Pillow.fromarray(indices, "P"), Pillow.fromarray(indices, "P")
    first.putpalette([0, 0, 0, 255, 255, 255])
    second.putpalette([255, 0, 0, 0, 0, 255])
    levels = rng.integers(0, 256, (16, 64), dtype=np.uint8)
    one_more = levels.copy()
    one_more[3, 4] ^= 128
    see_through = np.dstack([levels] * 3 + [np.where(levels > 99, 255, 0).astype(np.uint8)])
    return {
        "palettes": (png(first), png(second)),
        "sizes of the same bytes": (png(Pillow.fromarray(levels)), png(Pillow.fromarray(levels.reshape(64, 16)))),
        "modes of the same bytes": (
            png(Pillow.fromarray(levels.reshape(16, 64))),
            png(Pillow.frombytes("RGB", (16, 21), levels.tobytes()[: 16 * 21 * 3].ljust(16 * 21 * 3, b"\0"))),
        ),
        "one pixel": (png(Pillow.fromarray(levels)), png(Pillow.fromarray(one_more))),
        "transparency": (png(Pillow.fromarray(see_through)), png(Pillow.fromarray(see_through[..., :3].copy()))),
    }


@pytest.mark.parametrize("name", twins())
def test_twins_never_share_features(served, name) -> None:
    """What one picture is answered is not changed by another that was asked about before."""
    address, model = served

    def scores(data: bytes) -> np.ndarray:
        body = {"model": "m", "messages": [{"role": "user", "content": [part("image", data)]}], "max_tokens": 4}
        found = call(address, "/v1/chat/completions", {**body, "logprobs": True, "top_logprobs": 5})[1]
        tokens = found["choices"][0]["logprobs"]["content"]
        return np.array([[each["logprob"] for each in token["top_logprobs"]] for token in tokens])

    first, second = twins()[name]
    for engine in model.engines:
        engine.clear_caches()
    together = [scores(first), scores(second), scores(first)]
    kept = max(len(engine.features) for engine in model.engines)
    alone = []
    for data in (first, second):
        for engine in model.engines:
            engine.clear_caches()
        alone.append(scores(data))
    assert kept == 2, "each has features of its own"
    assert np.abs(together[0] - alone[0]).max() < 2e-5 > np.abs(together[2] - alone[0]).max()
    assert np.abs(together[1] - alone[1]).max() < 2e-5
    assert np.abs(alone[0] - alone[1]).max() > 4e-5, "a model that does not see proves nothing"


def test_the_same_picture_is_encoded_once_whatever_its_url(served) -> None:
    address, model = served
    data = png(Pillow.fromarray(np.arange(768, dtype=np.uint32).astype(np.uint8).reshape(16, 16, 3)))
    ask(address, part("image", data))
    (features,) = {id(engine.features): engine.features for engine in model.engines}.values()
    before = len(features)
    other = part("image", data, "PNG;charset=utf-8")
    assert ask(address, other)[0] == 200 and ask(address, part("image", data, "jpeg"))[0] == 200
    assert len(features) == before
