"""A user's own system brings a modality that no shared file knows: it chats, embeds, packs and is drawn."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import polymodal as pm
from polymodal.cli.app import app
from polymodal.data.messages import conversation
from polymodal.data.modalities import MODALITIES
from polymodal.data.packing import pack
from polymodal.errors import MediaError, PromptError

HERE = Path(__file__).parent
CLOUDS, LANDMARKS = (str(HERE / f"{name}_system.py") for name in ("point_cloud", "landmarks"))
RANDOM = np.random.default_rng(0)
CLOUD, OTHER = (RANDOM.normal(size=(count, 3)) for count in (100, 40))


def test_point_clouds_chat_and_embed(tmp_path: Path) -> None:
    before = dict(MODALITIES)
    model = pm.load(CLOUDS)
    file = tmp_path / "cloud.npy"
    np.save(file, CLOUD)
    said = {}
    for name, item in {
        "array": pm.array(CLOUD, "point_cloud"), "tensor": pm.array(torch.tensor(CLOUD)), "file": pm.media(file),
        "bytes": pm.array(file.read_bytes()), "lists": pm.array(CLOUD.tolist()),
    }.items():  # fmt: skip
        reply = model.chat(item, "What is it?", max_tokens=4)
        assert reply.tokens["point_cloud"] == 4 and reply.tokens["generated"] == 4
        said[name] = reply.text
    part = {"type": "point_cloud", "point_cloud": CLOUD.tolist()}
    said["part"] = model.chat([{"role": "user", "content": [part, "What is it?"]}], max_tokens=4).text
    assert len(set(said.values())) == 1, said
    vectors = model.embed([pm.array(CLOUD), pm.array(OTHER), file, pm.text("hello")])
    assert vectors.shape == (4, 32) and torch.allclose(vectors[0], vectors[2]) and float(vectors[0] @ vectors[1]) < 1
    assert dict(MODALITIES) == before


def test_features_of_any_width_and_length_chat_and_embed() -> None:
    model = pm.load(LANDMARKS)
    short, long = RANDOM.normal(size=(3, 7)), RANDOM.normal(size=(9, 7))
    reply = model.chat(pm.array(long), "and", pm.array(short, "landmarks"), "?", max_tokens=3)
    assert reply.tokens["landmarks"] == 12
    rows = [[{"role": "user", "content": [pm.array(x), text]}] for x, text in ((short, "a"), (long, "bb"))]
    batch = model.processor(rows)
    assert batch["landmarks"].shape == (12, 7) and batch["landmark_steps"] == (3, 9)
    assert batch["item_tokens"] == {"landmarks": (3, 9)}
    assert set(batch["token_types"].flatten().tolist()) == {0, 12}
    encoded = [model.processor.encode(conversation(row)) for row in rows]
    packed = model.processor.collate(pack(encoded, 99), padding="right")
    together, apart = model.logits(**packed)[0], [model.logits(**model.processor(row))[0] for row in reversed(rows)]
    assert (together - torch.cat(apart[::-1])).abs().max() <= 1e-5
    vectors = model.embed([pm.array(short), pm.array(long)])
    assert vectors.shape == (2, 32) and torch.allclose(vectors.norm(dim=-1), torch.ones(2))


def test_a_media_record_of_the_systems_own() -> None:
    model = pm.load(LANDMARKS)
    steps = RANDOM.normal(size=(5, 7))
    clip = model.processor.modalities["landmarks"].transform.__globals__["Clip"]
    mine, plain = (model.logits(**model.processor([{"role": "user", "content": [item, "?"]}]))
                   for item in (clip(steps), pm.array(steps)))  # fmt: skip
    assert torch.equal(mine, plain)


def test_the_command_line_asks_about_a_file_and_draws(tmp_path: Path) -> None:
    file = tmp_path / "cloud.npy"
    np.save(file, CLOUD)
    answer = CliRunner().invoke(
        app, ["ask", str(file), "What is it?", "--model", CLOUDS, "--max-tokens", "2", "--json"]
    )
    assert answer.exit_code == 0 and json.loads(answer.stdout)["tokens"]["point_cloud"] == 4, answer.output
    drawn = CliRunner().invoke(app, ["show", CLOUDS])
    assert drawn.exit_code == 0 and "4 tokens per item" in drawn.stdout
    assert CliRunner().invoke(app, ["show", LANDMARKS]).exit_code == 0


def test_mistakes_are_named() -> None:
    model = pm.load(CLOUDS)
    with pytest.raises(PromptError, match="points cannot read image; it takes text, point_cloud; try mini"):
        model.chat(pm.image(np.zeros((4, 4, 3), np.uint8)), "?")
    with pytest.raises(PromptError, match="points cannot read smell; it takes text, point_cloud"):
        model.chat([{"role": "user", "content": [{"type": "smell", "smell": [[1.0]]}]}])
    with pytest.raises(PromptError, match=r"part type 'smell' is not known; expected text, image, .*point_cloud"):
        model.chat([{"role": "user", "content": [{"type": "smell", "smell": "rose"}]}])
    with pytest.raises(MediaError, match="rows of numbers of equal length"):
        model.chat(pm.array([[1.0, 2.0], [3.0]]), "?")
