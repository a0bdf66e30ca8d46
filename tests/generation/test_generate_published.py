"""The published SmolLM2 answers: alone, in a batch, by beams, and over two turns of one conversation."""

from functools import lru_cache

import published_smollm2
from polymodal.backbones.llama import SMOLLM2_135M, gguf_keys
from polymodal.data.processor import Processor
from polymodal.data.template import SMOLLM2
from polymodal.generation.generate import generate
from polymodal.generation.output import DecodingConstraints
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.weights.load import load_into
from talking import Talk

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


@lru_cache
def published() -> tuple[MultimodalLM, Processor]:
    config = SMOLLM2_135M.config()
    decoder = config.build()
    load_into(decoder, published_smollm2.opened(), gguf_keys(config))
    processor = Processor(tokenizer=published_smollm2.tokenizer(), template=SMOLLM2, max_length=config.max_length)
    return MultimodalLM({}, {}, decoder.eval(), {}), processor


def test_two_turns_with_one_cache() -> None:
    model, processor = published()
    chat, messages = Talk(model, processor, SamplingOptions(max_tokens=24)), []
    chat.say(messages, "What is the capital of France?")
    assert messages[-1]["content"] == "The capital of France is Paris."
    held = len(chat.engine.prefixes._entries[-1].ids)
    chat.say(messages, "And of Italy?")
    assert messages[-1]["content"] == "The capital of Italy is Rome."
    assert chat.cached == held  # the answer is tokenised again to the very ids that were generated


def test_batch_of_unequal_length_and_beams() -> None:
    model, processor = published()
    batch = processor([[{"role": "user", "content": "Hi"}], FRANCE], generate=True)
    constraints = DecodingConstraints(tokenizer=processor.tokenizer)
    found = generate(model, batch, SamplingOptions(max_tokens=16, stop="Paris"), constraints)
    assert found[1].text == "The capital of France is " and found[1].finish_reason == "stop"
    alone = generate(model, processor("Hi", generate=True), SamplingOptions(max_tokens=16), constraints)
    assert found[0].text == alone[0].text
    beams = generate(model, processor(FRANCE, generate=True), SamplingOptions(max_tokens=12, beams=3), constraints)
    assert beams[0].text == "The capital of France is Paris."
