"""Every option of generation of the transformers library is followed as it does it, or refused by name."""

import json

import pytest
import torch

import polymodal as pm
from polymodal.api.generation_options import NEUTRAL, NO_EFFECT, OPTIONS, OTHERS, RULES
from polymodal.check import randomise
from polymodal.check.demo import byte_tokenizer
from polymodal.errors import ConfigError
from polymodal.generation import sampling
from polymodal.generation.sampling import SamplingOptions

transformers = pytest.importorskip("transformers")
LLAMA = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 60,
         "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}  # fmt: skip
T5 = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 1, "num_heads": 4, "vocab_size": 60,
      "decoder_start_token_id": 0}  # fmt: skip
EYE = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
       "patch_size": 8}  # fmt: skip
QFORMER = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 4,
           "encoder_hidden_size": 24}  # fmt: skip
BLIP = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
PIXELS = randomise.values("pixels", (2, 3, 16, 16))
PROMPT = torch.tensor([[5, 9, 5, 7, 5, 9], [8, 3, 3, 4, 8, 3]])
CAPTION = torch.tensor([[56, 5, 6, 7, 57], [56, 8, 9, 5, 57]])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """By name the library's model, ours, and tensors to answer: decoder, encoder-decoder, captions."""
    blip2 = transformers.Blip2Config(vision_config=EYE, qformer_config=QFORMER, text_config=T5, num_query_tokens=2,
                                     image_token_index=55)  # fmt: skip
    words = {**BLIP, "bos_token_id": 56, "sep_token_id": 57, "eos_token_id": 57, "pad_token_id": 0, "vocab_size": 60,
             "encoder_hidden_size": 32, "max_position_embeddings": 40}  # fmt: skip
    blip = transformers.BlipConfig(text_config=words, vision_config={**BLIP, "image_size": 16, "patch_size": 8})
    made = {
        "decoder": (transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)), {"input_ids": PROMPT}),
        "encoder-decoder": (
            transformers.Blip2ForConditionalGeneration(blip2),
            {"pixel_values": PIXELS, "input_ids": torch.tensor([[55, 55, 5, 6], [55, 55, 8, 9]])},
        ),
        "captions": (transformers.BlipForConditionalGeneration(blip), {"pixel_values": PIXELS, "input_ids": CAPTION}),
    }
    found = {}
    for name, (model, tensors) in made.items():
        folder = tmp_path_factory.mktemp(name)
        randomise.fill(model.eval())
        model.save_pretrained(folder)
        tensors["attention_mask"] = torch.ones_like(tensors["input_ids"])
        found[name] = model, pm.load(folder), tensors
    return found


def test_no_option_of_the_library_is_unknown():
    fields = {name for name in vars(transformers.GenerationConfig()) if not name.startswith("_")}
    ours = {*OPTIONS, *RULES, *OTHERS, *NO_EFFECT, *NEUTRAL}
    assert fields <= ours, f"neither followed nor refused: {sorted(fields - ours)}"
    assert len(ours) == len(OPTIONS) + len(RULES) + len(OTHERS) + len(NO_EFFECT) + len(NEUTRAL)


CHANGES = [
    {"max_length": 12},
    {"max_length": 40, "max_new_tokens": 5},
    {"max_new_tokens": 9, "min_length": 14},
    {"max_new_tokens": 9, "min_new_tokens": 4, "min_length": 30},
    {"repetition_penalty": 1.7},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3, "repetition_penalty": 0.6},
    {"bad_words_ids": [[7], [11], [5, 9], [3, 4, 8]]},
    {"sequence_bias": [[[21], 4.0], [[22], -3.0], [[5, 30], 9.0], [[21, 21], -20.0]]},
    {"suppress_tokens": [1, 2, 30, 31, 32, 33]},
    {"begin_suppress_tokens": list(range(20, 50))},
    {"forced_bos_token_id": 17},
    {"forced_bos_token_id": 17, "begin_suppress_tokens": list(range(20, 50))},
    {"forced_eos_token_id": 13, "max_new_tokens": 5},
    {"forced_eos_token_id": [13], "max_length": 11},
    {"exponential_decay_length_penalty": [2, 1.6]},
    {"remove_invalid_values": True, "bad_words_ids": [[7], [11]]},
    {"no_repeat_ngram_size": 2, "bad_words_ids": [[7]], "sequence_bias": [[[9], 5.0]], "suppress_tokens": [8],
     "forced_eos_token_id": 13, "exponential_decay_length_penalty": [3, 1.2], "min_new_tokens": 2},
]  # fmt: skip
BEAMS = [
    {"early_stopping": True},
    {"early_stopping": "never"},
    {"early_stopping": "never", "length_penalty": 2.0},
    {"early_stopping": True, "length_penalty": -1.0},
    {"num_return_sequences": 2},
    {"num_return_sequences": 3, "early_stopping": True, "no_repeat_ngram_size": 2},
]


def ends_of(theirs, tensors) -> list[int]:
    """Two ids that greedy answers hold, so that rows end at different times."""
    free = theirs.generate(**tensors, max_new_tokens=8, do_sample=False, eos_token_id=59, pad_token_id=0)
    return [int(free[0, -3]), int(free[1, -1])]


@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder", "captions"])
@pytest.mark.parametrize(
    "options", [*CHANGES, *({**each, "num_beams": 3} for each in (*CHANGES, *BEAMS))], ids=lambda each: ",".join(each)
)
def test_a_call_does_what_the_library_does(models, kind, options):
    theirs, ours, tensors = models[kind]
    common = {"do_sample": False, "max_new_tokens": 10}
    if "max_length" in options:
        del common["max_new_tokens"]
    if kind != "captions":  # which have ids of their own for both
        common |= {"pad_token_id": 0, "eos_token_id": ends_of(theirs, tensors)}
    want = theirs.generate(**tensors, **{**common, **options})
    assert ours.generate(**tensors, **{**common, **options}).tolist() == want.tolist()


@pytest.mark.parametrize(
    "options", [*CHANGES, *({**each, "num_beams": 3} for each in BEAMS)], ids=lambda x: ",".join(x)
)
def test_generation_config_json_does_what_it_does_there(tmp_path, models, options):
    theirs, _, tensors = models["decoder"]
    theirs.save_pretrained(tmp_path)
    settings = {"eos_token_id": ends_of(theirs, tensors), "pad_token_id": 0, **options}
    (tmp_path / "generation_config.json").write_text(json.dumps(settings))
    same = transformers.LlamaForCausalLM.from_pretrained(tmp_path)
    assert pm.load(tmp_path).generate(**tensors).tolist() == same.generate(**tensors).tolist()


def test_an_answer_of_no_given_length_ends_at_the_last_position(models):
    theirs, ours, _ = models["decoder"]
    ids = randomise.ids("long", (1, 60), 1, 59)
    for options in ({}, {"max_new_tokens": 8}):
        assert ours.generate(input_ids=ids, **options).shape == theirs.generate(input_ids=ids, **options).shape
    with pytest.raises(ConfigError, match="max_length=64 ends in a prompt of 64 tokens"):
        ours.generate(input_ids=randomise.ids("long", (1, 64), 1, 59))


@pytest.mark.parametrize(
    "options",
    [{"typical_p": 0.3}, {"typical_p": 0.9}, {"epsilon_cutoff": 0.02}, {"eta_cutoff": 0.05}, {"epsilon_cutoff": 0.9},
     {"typical_p": 0.8, "epsilon_cutoff": 0.01, "eta_cutoff": 0.03, "temperature": 1.4, "top_p": 0.95, "min_p": 0.02}],
    ids=lambda each: ",".join(each),
)  # fmt: skip
def test_samples_come_from_the_distribution_of_the_library(models, options):
    theirs, ours, tensors = models["decoder"]
    config = transformers.GenerationConfig(do_sample=True, **options)
    config._eos_token_tensor = None
    chain = theirs._get_logits_processor(config, input_ids_seq_length=6, device="cpu")
    logits = randomise.values("logits", (4, 60)) * 3
    names = {OPTIONS[name]: value for name, value in options.items() if name in OPTIONS}
    rules = sampling.LogitRules(**{name: value for name, value in options.items() if name in RULES})
    found = sampling.adjust(logits, SamplingOptions(**{"temperature": 1.0, **names}, rules=rules))
    want = chain(torch.zeros(4, 6, dtype=torch.int64), logits.clone())
    assert torch.equal(found.isneginf(), want.isneginf()) and found.isneginf().any()
    torch.testing.assert_close(found.softmax(-1), want.softmax(-1), atol=1e-6, rtol=1e-5)
    mixed = sampling.OptionTable(
        [SamplingOptions(**{"temperature": 1.0, **names}, rules=rules), SamplingOptions()], "cpu"
    )
    pair = mixed.filter(logits[:2])
    assert torch.equal(pair[0], found[0]) and torch.equal(pair[1], logits[1])
    again = [ours.generate(**tensors, do_sample=True, seed=3, max_new_tokens=4, **options) for _ in range(2)]
    assert torch.equal(*again)


def test_several_samples_of_a_row_are_those_of_seeds_that_count_up(models):
    for kind in models:
        _, ours, tensors = models[kind]
        options = {"do_sample": True, "max_new_tokens": 5, "pad_token_id": 0}
        several = ours.generate(**tensors, **options, seed=7, num_return_sequences=3)
        alone = [ours.generate(**tensors, **options, seed=7 + k) for k in range(3)]
        width = several.shape[1]
        rows = [torch.nn.functional.pad(each[row], (0, width - len(each[row]))) for row in range(2) for each in alone]
        assert torch.equal(several, torch.stack(rows)), kind


def test_stop_strings_end_an_answer_where_the_library_ends_it(tmp_path):
    size = byte_tokenizer(tmp_path, ["<s>", "</s>"], bos="<s>", eos="</s>", pad="</s>")
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**LLAMA, "vocab_size": size}))
    randomise.fill(model.eval())
    model.save_pretrained(tmp_path)
    ours = pm.load(tmp_path)
    decode = ours.processor.tokenizer.decode
    others = [id for id in range(size) if not (decode([id]).isascii() and decode([id]).isalpha())]
    options = {"input_ids": torch.tensor([[70, 71, 72]]), "max_new_tokens": 12, "suppress_tokens": others}
    text = decode(ours.generate(**options)[0, 3:].tolist())
    words = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for stop in (text[5:7], text[:1], text[2:9]):
        want = model.generate(**options, stop_strings=[stop, "#"], tokenizer=words)
        assert ours.generate(**options, stop_strings=[stop, "#"]).tolist() == want.tolist() and want.shape[1] < 15


REFUSED = {
    "guidance_scale": 1.5, "encoder_repetition_penalty": 1.2, "encoder_no_repeat_ngram_size": 2, "top_h": 0.4,
    "penalty_alpha": 0.6, "dola_layers": "high", "constraints": ["x"], "force_words_ids": [[5]],
    "diversity_penalty": 0.5, "num_beam_groups": 2, "watermarking_config": {"bias": 2.5},
    "prompt_lookup_num_tokens": 3, "is_assistant": True,
    "use_mtp": True, "token_healing": True, "low_memory": True, "max_time": 2.0, "renormalize_logits": True,
    "cache_implementation": "quantized", "return_dict_in_generate": True, "output_scores": True, "output_logits": True,
    "output_attentions": True, "output_hidden_states": True,
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_what_is_not_followed_is_refused_by_name(tmp_path, models, name):
    theirs, ours, tensors = models["decoder"]
    value = REFUSED.get(name, object())
    with pytest.raises(ConfigError, match=f"^generate: {name}="):
        ours.generate(**tensors, max_new_tokens=2, **{name: value})
    for neutral in (None, *NEUTRAL[name]):
        assert ours.generate(**tensors, max_new_tokens=2, **{name: neutral}).shape == (2, 8)
    if name in vars(transformers.GenerationConfig()):
        theirs.save_pretrained(tmp_path)
        (tmp_path / "generation_config.json").write_text(json.dumps({name: value}))
        with pytest.raises(ConfigError, match=f"^generation_config.json: {name}="):
            pm.load(tmp_path).generate(**tensors, max_new_tokens=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens: expected 1 or more, found 0"),
        ({"max_new_tokens": "5"}, "max_new_tokens: expected 1 or more, found '5'"),
        ({"max_length": 6}, "max_length=6 ends in a prompt of 6"),
        ({"max_length": "6"}, "max_length: expected"),
        ({"num_return_sequences": 2}, "num_return_sequences=2 answers would all be the same"),
        ({"num_return_sequences": 0, "do_sample": True}, "num_return_sequences: expected 1 or more"),
        ({"num_return_sequences": 3, "num_beams": 2}, "num_return_sequences=3 needs num_beams"),
        ({"num_beams": 2.0}, "num_beams: expected"),
        ({"do_sample": "yes"}, "do_sample: expected True or False"),
        ({"do_sample": True, "temperature": "hot"}, "temperature: expected 0"),
        ({"no_repeat_ngram_size": -1}, "no_repeat_ngram_size: expected"),
        ({"bad_words_ids": 5}, "bad_words_ids: expected"),
        ({"suppress_tokens": ["a"]}, "suppress_tokens: expected token ids"),
        ({"sequence_bias": [[5, "x"]]}, "sequence_bias: expected"),
        ({"typical_p": 0}, "typical_p: expected"),
        ({"eos_token_id": "</s>"}, "eos_token_id: expected token ids"),
        ({"seed": "5"}, "seed: expected None or from 0"),
        ({"early_stopping": "soon"}, "early_stopping: expected True, False or 'never'"),
    ],
)
def test_values_of_a_wrong_kind_are_named(models, options, words):
    _, ours, tensors = models["decoder"]
    with pytest.raises(ConfigError, match=f"^generate: {words}"):
        ours.generate(**tensors, **options)
