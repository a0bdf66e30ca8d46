"""`Model.generate` from tensors writes what transformers writes, option by option, on random weights."""

import pytest
import torch

import polymodal as pm
from polymodal.check import randomise
from polymodal.errors import ConfigError, PromptError, WeightsError
from polymodal.generation.sampling import SamplingOptions

transformers = pytest.importorskip("transformers")
LLAMA = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 60,
         "max_position_embeddings": 64, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None}  # fmt: skip
BLIP = {"hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
BLIP_IDS = {"bos_token_id": 56, "sep_token_id": 57, "eos_token_id": 57, "pad_token_id": 0}


def pair(model, folder, **settings):
    """The library's model, all weights random, and ours from what it saves."""
    randomise.fill(model.eval())
    for name, value in settings.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    return model, pm.load(folder)


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    return pair(model, tmp_path_factory.mktemp("llama"))


def rows():
    ids = randomise.ids("rows", (3, 7), 1, 59)
    mask = torch.ones_like(ids)
    ids[0, :3], mask[0, :3] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


def same(models, tensors, **options):
    theirs, ours = models
    want = theirs.generate(**tensors, **options)
    found = ours.generate(**tensors, **options)
    assert found.tolist() == want.tolist()
    return want


def test_rows_end_at_different_times(llama):
    free = same(llama, rows(), max_new_tokens=12, do_sample=False, pad_token_id=0)
    ends = [int(free[0, 9]), int(free[1, 12])]
    same(llama, rows(), max_new_tokens=12, do_sample=False, eos_token_id=ends, pad_token_id=58)
    same(llama, rows(), max_new_tokens=12, do_sample=False, eos_token_id=ends)  # the first end id pads


@pytest.mark.parametrize("beams", [1, 3])
def test_shortest_and_longest_answers(llama, beams):
    free = same(llama, rows(), max_new_tokens=12, do_sample=False, pad_token_id=0)
    ends = {"do_sample": False, "eos_token_id": torch.tensor([int(free[0, 8])]), "pad_token_id": 1, "num_beams": beams}
    same(llama, rows(), max_new_tokens=1, **ends)
    same(llama, rows(), max_new_tokens=12, min_new_tokens=6, **ends)
    same(llama, rows(), max_length=11, **ends)


def test_options_that_do_nothing_are_taken_and_others_refused(llama, tmp_path):
    same(llama, rows(), max_new_tokens=3, do_sample=False, pad_token_id=0, num_return_sequences=1, use_cache=True)
    with pytest.raises(ConfigError, match=r"generate: penalty_alpha=0.6 is not supported"):
        llama[1].generate(**rows(), penalty_alpha=0.6)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    _, ours = pair(model, tmp_path, encoder_repetition_penalty=2.0)
    with pytest.raises(ConfigError, match=r"generation_config\.json: encoder_repetition_penalty=2.0"):
        ours.generate(**rows())
    assert ours.generate(**rows(), options=SamplingOptions(max_tokens=2)).shape == (3, 9)


def test_a_base_class_is_refused_with_what_is_read(tmp_path):
    transformers.LlamaModel(transformers.LlamaConfig(**LLAMA)).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"\['LlamaModel'\]; of that model_type it reads .*LlamaForCausalLM"):
        pm.load(tmp_path)


@pytest.mark.parametrize("pad", [0, 58])
def test_beams_fill_short_rows_as_the_library_does(llama, pad):
    free = same(llama, rows(), max_new_tokens=12, num_beams=3, do_sample=False, pad_token_id=pad)
    ends = [int(free[0, 9]), int(free[1, 8])]
    for penalty in (0.0, 2.0):
        same(llama, rows(), max_new_tokens=12, num_beams=3, do_sample=False, eos_token_id=ends, pad_token_id=pad,
             length_penalty=penalty)  # fmt: skip


def test_padding_inside_a_prompt_without_a_mask(llama):
    ids = torch.tensor([[5, 0, 7, 0, 8], [0, 9, 0, 4, 3]])
    for options in ({}, {"num_beams": 2}, {"repetition_penalty": 1.4}):
        same(llama, {"input_ids": ids}, max_new_tokens=10, do_sample=False, pad_token_id=0, **options)


def test_a_repetition_penalty_counts_padding_inside_a_prompt_but_not_before_it(tmp_path):
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    theirs, _ = pair(model, tmp_path)
    with torch.no_grad():
        theirs.lm_head.weight[0] *= 4  # the padding id is what the model would like to write
    theirs.save_pretrained(tmp_path)
    models = theirs, pm.load(tmp_path)
    plain = same(models, rows(), max_new_tokens=12, do_sample=False, pad_token_id=0)
    assert (plain[:, 7:] == 0).any()
    same(models, rows(), max_new_tokens=12, do_sample=False, pad_token_id=0, repetition_penalty=3.0)
    ids = torch.tensor([[0, 0, 7, 4, 8], [6, 9, 0, 4, 3]])
    same(models, {"input_ids": ids}, max_new_tokens=12, do_sample=False, pad_token_id=0, repetition_penalty=3.0)


def test_the_folder_says_how_to_write(tmp_path):
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA))
    settings = {"repetition_penalty": 1.5, "do_sample": True, "top_k": 1, "top_p": 0.5, "temperature": 0.3,
                "max_new_tokens": 9, "pad_token_id": 3, "eos_token_id": [4, 5]}  # fmt: skip
    models = pair(model, tmp_path, **settings)
    free = same(models, rows())
    assert free.shape[1] > 7
    same(models, rows(), repetition_penalty=1.0, max_new_tokens=4)
    same(models, rows(), do_sample=False, num_beams=2)


def test_captions_by_beam_search(tmp_path):
    text = {**BLIP, **BLIP_IDS, "vocab_size": 60, "encoder_hidden_size": 32, "max_position_embeddings": 40}
    vision = {**BLIP, "image_size": 16, "patch_size": 8}
    config = transformers.BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
    pixels = randomise.values("pixels", (2, 3, 16, 16))
    words = {"input_ids": torch.tensor([[56, 5, 6, 7, 57], [56, 8, 9, 57, 0]])}
    words["attention_mask"] = (words["input_ids"] != 0).long()
    writer = pair(transformers.BlipForConditionalGeneration(config), tmp_path / "caption")
    for beams in (1, 2, 3):
        same(writer, {"pixel_values": pixels}, max_new_tokens=10, num_beams=beams, min_new_tokens=4)
        same(writer, {"pixel_values": pixels, **words}, max_new_tokens=10, num_beams=beams, repetition_penalty=1.5)
    answerer = pair(transformers.BlipForQuestionAnswering(config), tmp_path / "answer")
    same(answerer, {"pixel_values": pixels, **words}, max_new_tokens=10, num_beams=3)


def test_encoder_decoders_search_with_padded_prompts(tmp_path):
    text = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 40, "num_layers": 1, "num_heads": 4, "vocab_size": 60,
            "decoder_start_token_id": 0}  # fmt: skip
    vision = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 16, "patch_size": 8}  # fmt: skip
    config = transformers.Blip2Config(
        vision_config=vision, qformer_config={**BLIP, "encoder_hidden_size": 24, "num_hidden_layers": 1},
        text_config=text, num_query_tokens=2, image_token_index=55,
    )  # fmt: skip
    models = pair(transformers.Blip2ForConditionalGeneration(config), tmp_path)
    ids = torch.tensor([[55, 55, 5, 6, 7], [0, 55, 55, 8, 9]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long()}
    batch["pixel_values"] = randomise.values("pixels", (2, 3, 16, 16))
    same(models, batch, max_new_tokens=8, num_beams=3, do_sample=False, eos_token_id=1, pad_token_id=0)


def test_pictures_alone_are_captioned(tmp_path):
    text = {"model_type": "opt", "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48, "num_hidden_layers": 1,
            "num_attention_heads": 4, "vocab_size": 60, "bos_token_id": 2, "eos_token_id": None}  # fmt: skip
    vision = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 16, "patch_size": 8}  # fmt: skip
    config = transformers.Blip2Config(
        vision_config=vision, qformer_config={**BLIP, "encoder_hidden_size": 24, "num_hidden_layers": 1},
        text_config=text, num_query_tokens=2, image_token_index=55,
    )  # fmt: skip
    models = pair(transformers.Blip2ForConditionalGeneration(config), tmp_path)
    same(models, {"pixel_values": randomise.values("pixels", (2, 3, 16, 16))}, max_new_tokens=8, do_sample=False)
    with pytest.raises(PromptError, match="input_ids: expected"):
        models[1].generate(max_new_tokens=8)
