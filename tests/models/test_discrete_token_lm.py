"""Pictures as ids of the language model: what is embedded, what is learned, what is never written."""

import pytest
import torch

from polymodal.backbones.llama import LlamaShape
from polymodal.check.randomise import fill, ids, values
from polymodal.errors import ConfigError, PromptError
from polymodal.fusion.vocabulary import Span, Spelling, Vocabulary
from polymodal.generators import vq_codec
from polymodal.models.discrete_token_lm import DiscreteTokenLM
from polymodal.nn.losses import lm_head_loss, token_loss, z_loss

PLACE = 9
CODEC = {"embed_dim": 8, "num_embeddings": 24, "latent_channels": 8, "resolution": 8, "base_channels": 32,
         "channel_multiplier": [1, 1], "num_res_blocks": 1}  # fmt: skip


def model(suppressed: tuple[int, ...] = (), decode: bool = False) -> DiscreteTokenLM:
    shape = LlamaShape(width=32, depth=1, heads=2, ffn_width=48, vocab_size=60)
    vocabulary = Vocabulary(size=60, codecs={"image": Span(start=30, count=24)})
    codec = vq_codec.parse_config(CODEC, decode=decode).build()
    made = DiscreteTokenLM({"image": codec}, {"image": Spelling(vocabulary)}, shape.config().build(), {"image": PLACE},
                   suppressed=suppressed)  # fmt: skip
    fill(made)
    return made.eval()


def batch() -> dict[str, torch.Tensor]:
    """Two rows: two pictures, and one."""
    words = ids("w", (2, 40), 10, 30)
    words[0, 2:18], words[0, 20:36], words[1, 24:40] = PLACE, PLACE, PLACE
    return {"input_ids": words, "pixel_values": values("p", (3, 3, 8, 8))}


@torch.no_grad()
def test_pictures_and_their_ids_are_one() -> None:
    ours, given = model(), batch()
    spelled = ours.with_token_ids({**given, "labels": given["input_ids"].clone()})
    assert set(spelled) == {"input_ids", "labels"}
    assert not bool((spelled["input_ids"] == PLACE).any())
    assert torch.equal(spelled["input_ids"], spelled["labels"])
    assert torch.allclose(ours(**given).logits, ours(input_ids=spelled["input_ids"]).logits, atol=1e-5)
    features = ours.features(**given)["image"]
    assert torch.equal(features, ours.backbone.embed(ours.tokens("image", given)))


def test_suppressed_ids_are_trained_and_never_generated() -> None:
    ours, given = model(suppressed=tuple(range(30, 54))), batch()
    logits = ours(**given).logits
    assert bool((logits[..., 30:54] == torch.finfo(torch.float32).min).all())
    loss = ours(**given, labels=given["input_ids"]).loss
    assert float(loss.detach()) < 50
    loss.backward()
    assert all(p.grad is None for p in ours.encoders.parameters())
    assert ours.backbone.embed_tokens.weight.grad is not None


def test_codecs_stay_in_evaluation_mode() -> None:
    ours = model().train()
    assert ours.backbone.training
    assert not any(part.training for part in ours.encoders.modules())


@torch.no_grad()
def test_ids_to_pixels() -> None:
    ours = model(decode=True)
    codes = torch.arange(30, 46)[None]
    assert ours.pixels("image", codes, 4, 4).shape == (1, 3, 8, 8)
    with pytest.raises(PromptError, match="16 ids, found 15"):
        ours.pixels("image", codes[:, 1:], 4, 4)
    with pytest.raises(PromptError, match="id 29 has no code of image"):
        ours.pixels("image", codes - 1, 4, 4)
    with pytest.raises(ConfigError, match="no decoder"):
        model().pixels("image", codes, 4, 4)


def test_loss_weighs_ids_and_adds_the_square_of_log_z() -> None:
    hidden, labels = values("h", (1, 4, 6)), torch.tensor([[-100, 1, 2, 1]])
    logits, wanted = hidden[:, :-1].flatten(0, 1), labels[0, 1:]
    assert torch.allclose(z_loss(logits, wanted), logits.logsumexp(-1).square().mean())
    weight = torch.tensor([1.0, 0.5, 1.0, 1.0, 1.0, 1.0])
    each = torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="none")
    expected = (each * weight[labels[0, 1:]]).sum() / weight[labels[0, 1:]].sum()
    assert torch.allclose(token_loss(logits, wanted, weight[wanted]), expected)
    assert torch.allclose(token_loss(logits, wanted), lm_head_loss(hidden, lambda h: h, labels))
