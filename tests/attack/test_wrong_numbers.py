"""Wrong answers without an error: unequal lengths in a batch, saved and loaded again, weights changed under a cache."""

import pytest
import torch
from PIL import Image

import polymodal as pm
from polymodal.data.messages import user
from polymodal.engine.engine import Engine
from polymodal.engine.request import Request
from polymodal.generation.sampling import SamplingOptions
from tiny_folders import FOLDERS, tiny
from tiny_talk import model as tiny_network
from tiny_talk import processor

TALKS = (
    ("Hi",),
    (Image.new("RGB", (60, 44), (200, 90, 10)), "What is this? Tell me all about it, slowly."),
    (Image.new("RGB", (30, 90), (20, 190, 10)), "Where?"),
    ("A much longer question about nothing at all, with many words in it",),
)


def one_by_one(model: pm.Model) -> list[str]:
    return [model.chat(*talk, max_tokens=8).text for talk in TALKS]


def together(model: pm.Model) -> list[str]:
    return [reply.text for reply in model.chat_batch([list(talk) for talk in TALKS], max_tokens=8)]


@pytest.mark.parametrize("name", FOLDERS)
def test_answers_are_the_same_in_batches_and_after_saving_and_follow_the_weights(name, tmp_path):
    (tmp_path / name).mkdir()
    tiny(name, tmp_path / name)
    model = pm.load(tmp_path / name)
    before = one_by_one(model)
    assert together(model) == before
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(weight.roll(1, 0))
    after = one_by_one(model)
    assert after != before
    model.clear_caches()
    assert one_by_one(model) == after
    model.save(tmp_path / "saved")
    assert together(pm.load(tmp_path / "saved")) == after
    assert one_by_one(pm.load(tmp_path / name)) == before  # the file itself stays


def test_an_engine_that_is_never_idle_follows_the_weights():
    network = tiny_network()
    engine = Engine(network, processor())
    asked = engine.encode((user("the same words for everybody, and many of them"),))
    long = Request(encoded=engine.encode((user("go on"),)), options=SamplingOptions(max_tokens=60, min_tokens=60))
    short = Request(encoded=asked, options=SamplingOptions(max_tokens=6))

    def answer(engine: Engine) -> list[int]:
        number, ids = engine.add(short), []
        while True:
            for event in engine.step():
                if event.request == number and event.piece is not None:
                    ids.append(event.piece.id)
                if event.request == number and event.done:
                    return ids

    begun = Request(encoded=long.encoded, options=SamplingOptions(max_tokens=9))
    engine.add(long)
    before = answer(engine)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.copy_(weight.roll(1, 0))
    after = answer(engine)
    assert engine.busy  # the long answer goes on
    assert after == answer(Engine(network, processor())) != before
    assert answer(engine) == after
    while engine.busy:
        engine.step()
    # What was begun with the old weights is kept for nobody.
    assert engine.run([begun])[0][0].ids == Engine(network, processor()).run([begun])[0][0].ids
