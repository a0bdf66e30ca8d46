"""mini: its record, what it ships, and (where its published files are here) what it says."""

from pathlib import Path

import pytest
import torch

from polymodal.data.media import Image
from polymodal.systems import mini
from polymodal.systems._system import LoadOptions, get
from polymodal.weights.fetch import is_cached
from polymodal.weights.packed import unpack
from polymodal.weights.read import read_safetensors

EXAMPLES = Path(__file__).parents[2] / "examples"
TRAINED = Path(mini.TRAINED.name)


def test_the_stated_number_of_parameters_is_that_of_the_parts() -> None:
    system = get("mini")
    variant = system.variant()
    with torch.device("meta"):
        module = system.build(variant)
    beside = sum(part.parameters for part in system.parts(variant))
    assert variant.parameters == sum(p.numel() for p in module.parameters()) + beside


def test_what_ships_fits_the_connector_and_stays_small() -> None:
    assert TRAINED.stat().st_size <= 25_000_000
    ours = unpack(read_safetensors(TRAINED))
    connector = mini.CONNECTOR.build(mini.ENCODER.width, mini.BACKBONE.width)
    stored = {name.removeprefix("connector."): x for name, x in ours.items() if name.startswith("connector.")}
    expected = {name: tuple(x.shape) for name, x in connector.state_dict().items()}
    assert {name: tuple(x.shape) for name, x in stored.items()} == expected
    assert torch.allclose(stored["keys"].norm(dim=-1), torch.ones(mini.CONNECTOR.names), atol=0.02)
    assert all(bool(torch.isfinite(x).all()) for x in ours.values())
    assert sum(name.startswith("adapters.") for name in ours) == 2 * 7 * len(mini.BACKBONE.blocks)


@pytest.fixture(scope="module")
def loaded():
    if not all(is_cached(source) for source in mini.WEIGHTS):
        pytest.skip("mini's published files are not in the cache; `polymodal pull mini` fetches them")
    variant = get("mini").variant()
    return get("mini").load(variant, LoadOptions(offline=True))


@pytest.mark.assets
def test_it_sees_the_cat_of_the_example(loaded) -> None:
    from polymodal.assemblies.generate import Ending, generate
    from polymodal.assemblies.sampling import SamplingOptions

    def ask(*content: object) -> str:
        batch = loaded.processor([{"role": "user", "content": list(content)}], generate=True)
        ending = Ending(tokenizer=loaded.processor.tokenizer)
        return generate(loaded.model, batch, SamplingOptions(max_tokens=12), ending)[0].text.lower()

    with torch.inference_mode():
        cat = Image(str(EXAMPLES / "cat.jpg"))
        assert "cat" in ask(cat, "What animal is in the picture?")
        assert ask(cat, "Is there a truck in the picture?").startswith("no")
        scores = loaded.score(cat, ["a truck", "a cat", "a banana"])
        assert scores.argmax() == 1


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
    bare, adapted = model.logits(**batch), loaded.model.logits(**batch)
    assert (bare - adapted).abs().max() > 1
    again = model.chat("What is this?", Image(str(EXAMPLES / "cat.jpg")), max_tokens=8)
    assert again.text == seen.text and again.seconds["encode"] < 0.01
