"""Beams that are drawn, and beams that end at stop texts, are those of the transformers library."""

import pytest
import torch
from test_generation_options import BLIP, EYE, LLAMA, QFORMER, T5, ends_of, models  # noqa: F401

import polymodal as pm
from polymodal.check import randomise
from polymodal.check.demo import byte_tokenizer
from polymodal.errors import ConfigError

transformers = pytest.importorskip("transformers")
DRAWN = [
    {},
    {"temperature": 1.8, "top_k": 0},
    {"top_k": 3},
    {"top_k": 1},
    {"top_p": 0.3},
    {"min_p": 0.9, "top_k": 0},
    {"typical_p": 0.2, "top_k": 20},
    {"epsilon_cutoff": 0.3, "top_k": 0},
    {"eta_cutoff": 0.3, "top_k": 0},
    {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    {"num_return_sequences": 3, "early_stopping": True},
    {"length_penalty": 2.0, "early_stopping": "never", "min_new_tokens": 3},
]


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder", "captions"])
@pytest.mark.parametrize("options", DRAWN, ids=lambda each: ",".join(each))
def test_beams_that_are_drawn_are_the_library_s_for_a_seed(models, kind, options):  # noqa: F811
    theirs, ours, tensors = models[kind]
    one = {name: value[:1] for name, value in tensors.items()}  # the library's rows share one row of random numbers
    common = {"do_sample": True, "num_beams": 3, "max_new_tokens": 10}
    if kind != "captions":
        common |= {"pad_token_id": 0, "eos_token_id": ends_of(theirs, tensors)}
    found = []
    for seed in range(4):
        torch.manual_seed(seed)
        want = theirs.generate(**one, **{**common, **options})
        found.append(ours.generate(**one, **{**common, **options}, seed=seed).tolist())
        assert found[-1] == want.tolist()
    assert options or len({str(each) for each in found}) > 1


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder", "captions"])
def test_a_row_draws_the_same_whoever_is_beside_it(models, kind):  # noqa: F811
    theirs, ours, tensors = models[kind]
    options = {"do_sample": True, "num_beams": 3, "max_new_tokens": 8, "seed": 5, "num_return_sequences": 2}
    if kind != "captions":
        options |= {"pad_token_id": 0, "eos_token_id": ends_of(theirs, tensors)}
    both = ours.generate(**tensors, **options)
    for row in range(2):
        alone = ours.generate(**{name: value[row : row + 1] for name, value in tensors.items()}, **options)
        assert torch.equal(both[2 * row : 2 * row + 2, : alone.shape[1]], alone)


def test_generation_config_json_may_ask_for_beams_that_are_drawn(tmp_path, models):  # noqa: F811
    theirs, _, tensors = models["decoder"]
    theirs.save_pretrained(tmp_path)
    settings = {"do_sample": True, "num_beams": 2, "top_p": 0.9, "pad_token_id": 0, "max_new_tokens": 6}
    (tmp_path / "generation_config.json").write_text(transformers.GenerationConfig(**settings).to_json_string())
    same = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    one = {name: value[:1] for name, value in tensors.items()}
    torch.manual_seed(3)
    assert pm.load(tmp_path).generate(**one, seed=3).tolist() == same.generate(**one).tolist()


def writers(kind, folder):
    """The library's model that writes bytes, ours, its tokenizer, and a prompt."""
    size = byte_tokenizer(
        folder, ["<s>", "</s>", "<image>", "[CLS]", "[SEP]", "[PAD]"], bos="<s>", eos="</s>", pad="</s>"
    )
    prompt = {"input_ids": torch.tensor([[70, 71, 72], [80, 81, 82]])}
    if kind == "decoder":
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**LLAMA, "vocab_size": size}))
    elif kind == "encoder-decoder":
        config = transformers.Blip2Config(vision_config=EYE, qformer_config=QFORMER, num_query_tokens=2,
                                          text_config={**T5, "vocab_size": size}, image_token_index=2)  # fmt: skip
        model = transformers.Blip2ForConditionalGeneration(config)
        prompt = {"input_ids": torch.tensor([[2, 2, 70, 71], [2, 2, 80, 81]]),
                  "pixel_values": randomise.values("pixels", (2, 3, 16, 16))}  # fmt: skip
    else:
        words = {**BLIP, "bos_token_id": 0, "sep_token_id": 1, "eos_token_id": 1, "pad_token_id": 2,
                 "vocab_size": size, "encoder_hidden_size": 32, "max_position_embeddings": 40}  # fmt: skip
        config = transformers.BlipConfig(text_config=words, vision_config={**BLIP, "image_size": 16, "patch_size": 8})
        model = transformers.BlipForConditionalGeneration(config)
        prompt = {"pixel_values": randomise.values("pixels", (2, 3, 16, 16))}
    randomise.fill(model.eval())
    model.save_pretrained(folder)
    return (
        model,
        pm.load(folder),
        transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json")),
        prompt,
    )


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder", "captions"])
def test_stop_strings_end_beams_where_the_library_ends_them(tmp_path, kind):
    model, ours, words, prompt = writers(kind, tmp_path)
    decode = ours.processor.tokenizer.decode
    # The library finds stop strings by whole characters of tokens: let all of them be letters.
    others = [id for id in range(len(words)) if not (decode([id]).isascii() and decode([id]).isalpha())]
    options = {**prompt, "max_new_tokens": 12, "suppress_tokens": others, "num_beams": 3, "do_sample": False}
    if kind != "captions":
        options |= {"eos_token_id": 1, "pad_token_id": 2}
    first = prompt["input_ids"].shape[1] if kind == "decoder" else 1
    text = decode(ours.generate(**options)[0, first:].tolist())
    ended = 0
    for stop in (text[4:6], text[:2], text[3:4], text[6:9]):
        for more in ({}, {"early_stopping": True, "length_penalty": 2.0}, {"num_return_sequences": 3}):
            asked = {**options, **more, "stop_strings": [stop, "#"]}
            want = model.generate(**asked, tokenizer=words)
            assert ours.generate(**asked).tolist() == want.tolist()
            ended += want.shape[1] < first + 12 or bool((want[:, -1] == 2).any())
    assert ended
    drawn = {name: value[:1] for name, value in prompt.items()}
    drawn |= {**{name: options[name] for name in options if name not in prompt}, "do_sample": True, "top_k": 0}
    for seed in range(3):
        torch.manual_seed(seed)
        want = model.generate(**drawn, stop_strings=list("aeiou"), tokenizer=words)
        assert ours.generate(**drawn, stop_strings=list("aeiou"), seed=seed).tolist() == want.tolist()


def test_an_answer_by_beams_leaves_its_stop_text_out(tmp_path):
    _, ours, _, _ = writers("decoder", tmp_path)
    free = ours.chat("Hi", max_tokens=12, beams=3)
    stop = free.text[5:7]
    reply = ours.chat("Hi", max_tokens=12, beams=3, stop=(stop,))
    assert stop and stop not in reply.text and reply.finish_reason in ("stop", "length")
    again = [ours.chat("Hi", max_tokens=12, beams=3, temperature=1.0, seed=2).text for _ in range(2)]
    assert again[0] == again[1] != free.text


def test_stop_texts_of_beams_need_a_tokenizer(models):  # noqa: F811
    _, ours, tensors = models["decoder"]
    with pytest.raises(ConfigError, match="stop strings need a tokenizer"):
        ours.generate(**tensors, num_beams=2, stop_strings=["a"], max_new_tokens=3)
