"""mini: its record, what it ships, and (where its published files are here) what it says."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from polymodal.data.media import Image, Text
from polymodal.data.messages import user
from polymodal.data.sets.split import normalise
from polymodal.evaluate.metrics import word_errors
from polymodal.systems import LoadOptions, Variant, get
from polymodal.systems.mini import components as mini
from polymodal.weights.fetch import is_cached
from polymodal.weights.packed import unpack
from polymodal.weights.read import read_safetensors

EXAMPLES = Path(__file__).parents[2] / "examples"
TRAINED, TRAINED_HEARS = Path(mini.TRAINED.name), Path(mini.TRAINED_HEARS.name)


@pytest.mark.parametrize("variant", get("mini").variants, ids=lambda variant: variant.name)
def test_the_stated_number_of_parameters_is_that_of_the_parts(variant: Variant) -> None:
    system = get("mini")
    with torch.device("meta"):
        module = system.build(variant)
    beside = sum(part.parameters for part in system.parts(variant))
    assert variant.parameters == sum(p.numel() for p in module.parameters()) + beside


def test_what_ships_fits_the_connectors_and_stays_small() -> None:
    assert sum(path.stat().st_size for path in (TRAINED, TRAINED_HEARS)) <= 25_000_000
    ours = unpack(read_safetensors(TRAINED))
    connector = mini.fresh()[1]
    stored = {name.removeprefix("connector."): x for name, x in ours.items() if name.startswith("connector.")}
    assert shapes(stored) == shapes(connector.state_dict())
    assert torch.allclose(stored["keys"].norm(dim=-1), torch.ones(mini.CONNECTOR.names), atol=0.02)
    assert sum(name.startswith("adapters.") for name in ours) == 2 * 7 * len(mini.BACKBONE.blocks)
    spoken = unpack(read_safetensors(TRAINED_HEARS))
    assert shapes(spoken) == shapes(mini.fresh_hearing()[1].state_dict())
    assert all(bool(torch.isfinite(x).all()) for x in (*ours.values(), *spoken.values()))


def test_pictures_stand_where_the_adapters_learned_them() -> None:
    cat, words = Image(b"cat"), Text("Is there a dog?")
    said = mini.in_learned_order(lambda messages: (*messages, user("heard")), (user(words, cat),))
    assert said == (user(cat, words), user("heard"))


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in tensors.items()}


@pytest.fixture(scope="module")
def loaded():
    if not all(is_cached(source) for source in mini.WEIGHTS):
        pytest.skip("mini's published files are not in the cache; `polymodal pull mini` fetches them")
    variant = get("mini").variant()
    return get("mini").load(variant, LoadOptions(offline=True))


@pytest.fixture
def ask(loaded):
    """A question, with pictures -> the greedy answer in lower case."""
    from polymodal.generation.generate import generate
    from polymodal.generation.output import DecodingConstraints
    from polymodal.generation.sampling import SamplingOptions

    def ask(*content: object) -> str:
        batch = loaded.processor([{"role": "user", "content": list(content)}], generate=True)
        constraints = DecodingConstraints(tokenizer=loaded.processor.tokenizer)
        return generate(loaded.model, batch, SamplingOptions(max_tokens=12), constraints)[0].text.lower()

    return ask


@pytest.mark.assets
def test_it_says_what_it_cannot_tell_and_answers_what_it_can(ask) -> None:
    cat = Image(str(EXAMPLES / "cat.jpg"))
    for question in ("How many cats are in the picture?", "What is the cat's name?", "What is left of the cat?",
                     "How heavy is the cat?", "What time is it?"):  # fmt: skip
        assert "cannot tell" in ask(cat, question), question
    for question in ("What is in the picture?", "What can you see?", "List everything you see.",
                     "Describe the picture.", "What is this: a truck, a cat or a banana?"):  # fmt: skip
        assert "cat" in ask(cat, question) and "cannot" not in ask(cat, question), question


@pytest.mark.assets
def test_it_sees_the_cat_of_the_example(loaded, ask) -> None:
    with torch.inference_mode():
        cat = Image(str(EXAMPLES / "cat.jpg"))
        assert "cat" in ask(cat, "What animal is in the picture?")
        assert ask(cat, "Is there a truck in the picture?").startswith("no")
        assert ask("Is there a truck in the picture?", cat).startswith("no")  # the picture is moved to the front
        scores = loaded.score([cat], ["a truck", "a cat", "a banana"])[0]
        assert scores.argmax() == 1
        (thing,) = loaded.ground("A cat.", [cat]).things
    left, top, right, bottom = thing.box
    assert thing.label == "cat" and (right - left) * (bottom - top) > 0.3


@pytest.mark.assets
def test_it_hears_the_example(loaded) -> None:
    from polymodal.data.media import Audio

    assert "leisure to consider" in loaded.transcribe(Audio(str(EXAMPLES / "speech.flac")))


@pytest.mark.assets
def test_without_media_the_bare_language_model_answers(loaded) -> None:
    from polymodal.api.model import Model

    model = Model(system=get("mini"), variant=get("mini").variant(), parts=loaded)
    seen = model.chat("What is this?", Image(str(EXAMPLES / "cat.jpg")), max_tokens=8)
    assert "cat" in seen.text.lower()
    said = model.chat("What does a cat eat? Answer in one sentence.", max_tokens=24)
    assert len(said.text.split()) > 5
    batch = model.processor("What does a cat eat?")
    bare, adapted = model.logits(**batch), loaded.model(**batch).logits
    assert (bare - adapted).abs().max() > 1
    again = model.chat("What is this?", Image(str(EXAMPLES / "cat.jpg")), max_tokens=8)
    assert again.text == seen.text and again.seconds["encode"] < 0.01


@pytest.mark.assets
def test_the_variant_that_hears_lays_out_what_it_hears(loaded) -> None:
    """`loaded` skips the test where the published files are not here."""
    from polymodal.api.model import Model
    from polymodal.data.media import Audio

    system = get("mini")
    variant = system.variant(mini.HEARS)
    model = Model(system=system, variant=variant, parts=system.load(variant, LoadOptions(offline=True)))
    speech, cat = Audio(str(EXAMPLES / "speech.flac")), Image(str(EXAMPLES / "cat.jpg"))
    said = model.transcribe(speech).text
    right = "And Mr. John Dashwood had then leisure to consider how much there might be prudently in his power to do"
    assert word_errors(normalise(right), normalise(said))[0] <= 15
    reply = model.chat("What is said in the recording?", speech, cat, max_tokens=8)
    assert reply.tokens["audio"] >= 5 and reply.text
    assert "cat" in model.chat("What animal is in the picture?", cat, max_tokens=8).text.lower()
