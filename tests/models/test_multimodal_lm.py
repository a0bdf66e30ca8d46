"""MultimodalLM: features stand where placeholders stood, names are fixed, and nothing depends on padding."""

import pytest
import torch
from torch import nn

from polymodal.errors import ConfigError, PromptError
from polymodal.generation.generate import generate
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.multimodal_lm import MultimodalLM
from tiny_models import WIDTH, picture_model, scrambled, text_model, tiny_decoder

PLACEHOLDER, VOCABULARY = 7, 61


def batch() -> dict:
    """Two rows: a picture before the text; text before two pictures with nothing between them."""
    picture, word = [PLACEHOLDER] * 4, [11, 12, 13]
    rows = [[0, 0, 0, 0, 0, 0, *picture, *word, 9], [3, *word, *picture, *picture, 5, 6]]
    rows[1] = rows[1][: len(rows[0])]
    generator = torch.Generator().manual_seed(5)
    ids = torch.tensor(rows)
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": torch.full_like(ids, -100),
        "token_types": (ids == PLACEHOLDER).long(),
        "position_ids": (mask.cumsum(-1) - 1).clamp_min(0),
        "item_counts": {"image": torch.tensor([1, 2])},
        "pixel_values": torch.rand(3, 3, 4, 4, generator=generator),
    }


def model() -> MultimodalLM:
    return picture_model(PLACEHOLDER, VOCABULARY)


def test_forward_is_the_decoder_on_embeddings_put_together_by_hand() -> None:
    network, given = model(), batch()
    with torch.no_grad():
        features = network.connectors["image"](network.encoders["image"](given["pixel_values"]))
        embeds = network.backbone.embed_tokens(given["input_ids"]).clone()
        embeds[0, 6:10], embeds[1, 4:8], embeds[1, 8:12] = features
        assert torch.equal(network.embed_inputs(given), embeds)
        assert torch.equal(network.encode("image", given), features)
        for row, start in ((0, 6), (1, 0)):
            alone = network.backbone(embeds[row : row + 1, start:], torch.arange(14 - start)[None])
            # Left padding changes the order of additions, so equality is to 1e-5 and not to the bit.
            torch.testing.assert_close(network(**given).hidden[row, start:], alone[0], atol=1e-5, rtol=0)
        assert torch.equal(network(**given).logits, network.backbone.head(network(**given).hidden))


def test_known_features_need_no_encoder_and_nan_at_placeholders_does_not_matter() -> None:
    network, given = model(), batch()
    with torch.no_grad():
        expected = network.embed_inputs(given)
        features = network.encode("image", given)
        seen = network.encoders["image"].items
        network.backbone.embed_tokens.weight[PLACEHOLDER] = float("nan")
        assert torch.equal(network.embed_inputs(given, {"image": list(features)}), expected)
        assert network.encoders["image"].items == seen
        assert not network(**given).hidden[given["attention_mask"].bool()].isnan().any()


def test_text_only_calls_no_encoder_and_equals_the_bare_backbone() -> None:
    network = model()
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        bare = network.backbone(network.backbone.embed(ids), torch.arange(4)[None])
        assert torch.equal(network(input_ids=ids).hidden, bare)
        counted = network(input_ids=ids, item_counts={"image": torch.tensor([0])}, labels=ids)
        assert torch.equal(counted.hidden, bare)
    assert network.encoders["image"].items == 0


def test_generation_with_pictures_equals_full_passes_token_by_token() -> None:
    network, given = model(), batch()
    found = generate(network, given, SamplingOptions(max_tokens=6), chunk=5)
    ids, mask = given["input_ids"], given["attention_mask"]
    for step in range(6):
        with torch.no_grad():
            shown = {"position_ids": None, "token_types": None, "labels": None}
            logits = network(**{**given, **shown, "input_ids": ids, "attention_mask": mask}).logits
        logits[..., PLACEHOLDER] = float("-inf")
        following = logits[:, -1].argmax(-1)
        assert following.tolist() == [generation.ids[step] for generation in found]
        ids = torch.cat([ids, following[:, None]], -1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], -1)


def test_gradients_reach_every_part_and_the_names_are_fixed() -> None:
    network = model()
    network(**batch()).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    prefixes = {".".join(name.split(".")[:2]) for name, _ in network.named_parameters() if "backbone" not in name}
    assert prefixes == {"encoders.image", "connectors.image"}
    assert any(name.startswith("backbone.blocks.0.attn.q_proj") for name, _ in network.named_parameters())


def test_wrong_counts_inputs_and_parts_are_named() -> None:
    network, given = model(), batch()
    with pytest.raises(PromptError, match="item"):
        network(**{**given, "pixel_values": given["pixel_values"][:2]})
    assert torch.equal(network(**{**given, "item_counts": None}).hidden, network(**given).hidden)
    with pytest.raises(PromptError, match=r"left over|item"):
        network(**{**given, "item_counts": None, "pixel_values": given["pixel_values"][:1]})
    placeholder_without_item = torch.tensor([[1, PLACEHOLDER, 2]])
    with pytest.raises(PromptError, match="placeholder"):
        network(input_ids=placeholder_without_item)
    with pytest.raises(ConfigError, match="pixel_value"):
        network(**given, pixel_value=given["pixel_values"])
    with pytest.raises(PromptError, match="takes text, image; found audio"):
        network(**given, audio_values=torch.zeros(1, 2))
    with pytest.raises(ConfigError, match="same modalities"):
        MultimodalLM({"image": nn.Identity()}, {}, tiny_decoder(), {})
    with pytest.raises(ConfigError, match="same modalities"):
        MultimodalLM({"smell": nn.Identity()}, {"smell": nn.Identity()}, tiny_decoder(), {"scent": 3})
    with pytest.raises(ConfigError, match="neither a placeholder nor a context"):
        MultimodalLM({"image": nn.Identity()}, {"image": nn.Identity()}, tiny_decoder(), {})
    assert list(text_model().encoders) == []


def test_a_context_module_takes_the_place_of_a_placeholder() -> None:
    class Seen(nn.Module):
        def forward(self, features, given):
            return {"features": features["image"], "ids": given["input_ids"]}

    class Recorder(nn.Module):
        def __init__(self, backbone) -> None:
            super().__init__()
            self.inner, self.contexts = backbone, []

        def embed(self, ids):
            return self.inner.embed(ids)

        def forward(self, embeds, position_ids, mask, token_types=None, context=None, cache=None):
            self.contexts.append(context)
            return self.inner(embeds, position_ids, mask, token_types, None, cache)

    recorder = Recorder(scrambled(tiny_decoder(), 0))
    network = MultimodalLM({"image": nn.Identity()}, {"image": nn.Identity()}, recorder, {}, context=Seen())
    ids, features = torch.tensor([[1, 2]]), torch.rand(1, 2, WIDTH)
    network(input_ids=ids, pixel_values=features, return_logits=False)
    assert torch.equal(recorder.contexts[0]["features"], features) and torch.equal(recorder.contexts[0]["ids"], ids)
