"""Hidden states and attentions equal the library's, layer by layer; a loss is asked for where it is given."""

import threading
from pathlib import Path

import pytest
import torch

import polymodal as pm
from polymodal.check import randomise
from polymodal.errors import ConfigError

transformers = pytest.importorskip("transformers")
TINY = str(Path(__file__).parents[1] / "cli" / "tiny_system.py")
SIZES = {"hidden_size": 32, "intermediate_size": 40, "num_attention_heads": 4}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """LLaVA with every weight random, of the library and ours, and a batch with one picture a row."""
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**SIZES, num_hidden_layers=2, image_size=28, patch_size=14),
        text_config=transformers.LlamaConfig(**SIZES, vocab_size=99, num_hidden_layers=3, num_key_value_heads=2),
        image_token_index=98,
    )
    model = transformers.LlavaForConditionalGeneration(config).eval()
    randomise.fill(model)
    model.set_attn_implementation("eager")
    folder = tmp_path_factory.mktemp("llava")
    model.save_pretrained(folder)
    ids = torch.cat((torch.full((2, 4), 98), randomise.ids("ids", (2, 5), 1, 90)), 1)
    mask = torch.ones_like(ids)
    ids[1], mask[1, :2] = torch.tensor([0, 0, 98, 98, 98, 98, 7, 8, 9]), 0
    batch = {"input_ids": ids, "attention_mask": mask, "pixel_values": randomise.values("pixels", (2, 3, 28, 28))}
    return model, pm.load(folder), batch


def test_hidden_states_and_attentions_are_those_of_the_library(models):
    theirs, ours, batch = models
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        want, found = theirs(**batch, **asked), ours(**batch, **asked)
    real = batch["attention_mask"].bool()
    assert len(found.hidden_states) == len(want.hidden_states) == 4
    for one, other in zip(found.hidden_states, want.hidden_states, strict=True):
        torch.testing.assert_close(one[real], other[real], atol=1e-4, rtol=1e-4)
    assert torch.equal(found.hidden_states[-1], found.hidden)
    assert len(found.attentions) == len(want.attentions) == 3
    for one, other in zip(found.attentions, want.attentions, strict=True):
        torch.testing.assert_close(one.transpose(1, 2)[real], other.transpose(1, 2)[real], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.logits[real], want.logits[real], atol=1e-4, rtol=1e-4)


def test_only_what_is_asked_for_is_there_and_no_hook_stays(models):
    _, ours, batch = models
    plain = ours(**batch)
    assert plain.hidden_states is None and plain.attentions is None
    one = ours(**batch, output_hidden_states=True)
    assert one.attentions is None and torch.equal(one.logits, plain.logits)
    two = ours(**batch, output_attentions=True)
    assert two.hidden_states is None and len(two.attentions) == 3
    modules = list(ours.module.modules())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in modules)
    loss = ours(**batch, labels=batch["input_ids"], output_hidden_states=True)
    loss.loss.backward()
    assert loss.hidden_states[1].requires_grad and ours.module.backbone.embed_tokens.weight.grad is not None
    ours.module.zero_grad()


def test_another_thread_is_not_recorded(models):
    _, ours, batch = models
    other = {**batch, "input_ids": batch["input_ids"].flip(0), "attention_mask": batch["attention_mask"].flip(0)}
    alone = [each.hidden_states for each in (ours(**one, output_hidden_states=True) for one in (batch, other))]
    found: dict[int, list] = {0: [], 1: []}

    def work(number: int) -> None:
        with torch.no_grad():
            for _ in range(20):
                found[number].append(ours(**(batch, other)[number], output_hidden_states=True).hidden_states)

    threads = [threading.Thread(target=work, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, want in enumerate(alone):
        assert len(found[number]) == 20
        for states in found[number]:
            assert len(states) == 4 and all(torch.equal(a, b) for a, b in zip(states, want, strict=True))


def test_models_without_a_decoder_say_so(tmp_path):
    vision = {**SIZES, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14}
    text = {**SIZES, "num_hidden_layers": 1, "vocab_size": 99}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="DualEncoder: output_hidden_states and output_attentions are for language m"):
        pm.load(tmp_path)(pixel_values=torch.zeros(1, 3, 28, 28), output_hidden_states=True)


def test_a_loss_is_not_asked_of_logits_or_generate(models):
    _, ours, batch = models
    labels = batch["input_ids"]
    for verb in (ours.logits, ours.generate):
        for name, value in (("labels", labels), ("return_loss", True), ("token_weights", torch.ones(99))):
            with pytest.raises(
                ConfigError, match=rf"^{verb.__name__}: {name} is for a loss, which is model\(\*\*batch\)"
            ):
                verb(**batch, **{name: value})
    assert ours(**batch, labels=labels).loss > 0
    tiny = pm.load(TINY)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    assert tiny.logits(**tiny.processor(messages)).shape[0] == 1  # the labels of a processor's batch are part of it
    assert tiny.generate(**tiny.processor(messages[:1], generate=True), max_new_tokens=1).shape[0] == 1
