"""Requests made from the server's own description, right and wrong ones: no status of 5xx, no trace, no address.

A few hundred cases in the suite, 10,000 by ATTACK=40.
"""

import os
import re

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

import polymodal as pm
from headline_folders import captured
from humming import humming
from polymodal.serve.app import create_app
from polymodal.serve.models import ServedModel
from polymodal.serve.settings import RequestLimits, Settings
from served import running

SETTINGS = Settings(hosts=frozenset({"127.0.0.1"}), requests=RequestLimits(max_tokens=3, body=2_000_000))
TIMES = float(os.environ.get("ATTACK", "1"))
SEED = int(os.environ.get("ATTACK_SEED", "0"))
SECRET = re.compile(r"Traceback|0x[0-9a-f]{6,}|\.py\b|site-packages|/home/|/tmp/")
OPERATIONS = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/embeddings"),
    ("POST", "/v1/audio/transcriptions"),
    ("POST", "/v1/images/generations"),
    ("POST", "/v1/audio/speech"),
    ("GET", "/v1/models/{name}"),
    ("GET", "/api/drawings/{name}.svg"),
]
CASES = {"/v1/chat/completions": 40, "/v1/completions": 80, "/v1/embeddings": 70, "/v1/audio/transcriptions": 40,
         "/v1/images/generations": 20, "/v1/audio/speech": 30}  # fmt: skip
MODELS = {"ChatCompletion": "llava", "Completion": "llava", "Embeddings": "clip", "Images": "emu3", "Speech": "kokoro"}


@pytest.fixture(scope="module")
def described(tmp_path_factory):
    """(address, the description) of a server with a model for each route."""
    made = tmp_path_factory.mktemp("fuzz")
    models = {
        name: ServedModel(name, pm.load(captured(stem, made / stem)), SETTINGS)
        for name, stem in (("llava", "llava_1_5"), ("clip", "clip"), ("emu3", "emu3"))
    }
    app = create_app(models, SETTINGS, {"kokoro": humming("af_heart", "af_alloy")})
    # Most requests should come as far as the models.
    schemas = app.openapi()["components"]["schemas"]
    for name, model in MODELS.items():
        schemas[name]["properties"]["model"] = {"enum": [model, "x"]}
    schemas["Speech"]["properties"]["voice"] = {"enum": ["af_heart", "alloy", "x"]}
    schemas["Speech"]["properties"]["response_format"] = {"enum": ["wav", "mp3", "pcm", "x"]}
    role = {"type": "string", "enum": ["user", "assistant", "system", "tool"]}
    message = {"type": "object", "properties": {"role": role, "content": {}}, "required": ["role", "content"]}
    schemas["ChatCompletion"]["properties"]["messages"]["items"] = message
    with running(app, SETTINGS) as address:
        yield address, schemathesis.openapi.from_dict(app.openapi())


def check(answer) -> None:
    """What holds of every answer."""
    text = answer.content.decode("utf-8", "replace")  # a sound is none
    found = SECRET.search(text)
    assert answer.status_code < 500, f"{answer.status_code}: {text[:300]}"
    assert found is None, text[max(0, found.start() - 100) : found.end() + 100]
    if answer.status_code >= 400:
        assert set(answer.json()) == {"error"} and "\n" not in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        (method, path, mode)
        for method, path in OPERATIONS
        for mode in schemathesis.GenerationMode
        if method == "POST" or mode is schemathesis.GenerationMode.POSITIVE  # any text may stand in a path
    ],
)
def test_no_request_makes_the_server_fail(described, method: str, path: str, mode) -> None:
    address, schema = described
    count = max(1, round((CASES[path] / 2 if path in CASES else 10) * TIMES))

    @seeded(SEED)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def ask(case) -> None:
        check(case.call(base_url=address, timeout=60))

    ask()
    check(next(iter(schema["/health"].values())).Case().call(base_url=address))
