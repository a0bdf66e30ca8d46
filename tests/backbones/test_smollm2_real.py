"""SmolLM2-135M-Instruct from its published GGUF: our decoder against transformers on the same dequantised tensors.

In float64 the logits (up to 40 in size) are within 1e-4, measured 2.4e-5.  In float32 both engines round: ours is
1.1e-4 and transformers 0.9e-4 from transformers in float64, so 2e-4 is allowed between them; greedy text must be
equal.  `POLYMODAL_FULL=1` runs all ten prompts for 64 tokens (a minute), otherwise three for 24.
"""

import copy
import os

import pytest
import torch

from polymodal.backbones.llama import CONFIGS, gguf_keys, hf_keys
from polymodal.data.processor import Processor
from polymodal.data.template import SMOLLM2
from polymodal.generation.generate import generate
from polymodal.generation.sampling import SamplingOptions
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.weights.export import export_tensors
from polymodal.weights.load import load_into
from published_smollm2 import opened, tokenizer

transformers = pytest.importorskip("transformers")
TOLERANCE = {torch.float64: 1e-4, torch.float32: 2e-4}
FULL = bool(os.environ.get("POLYMODAL_FULL"))
PROMPTS = [
    "What is the capital of France?", "Write a poem about the sea.", "Explain gravity to a child.", "Count to ten.",
    "Give me a recipe for pancakes.", "Who wrote Hamlet?", "def fibonacci(n):", "What is 12 times 12?",
    "Tell me about elephants.", "Why is the sky blue?",
]  # fmt: skip


@pytest.mark.assets
def test_logits_and_greedy_text_equal_transformers() -> None:
    file, config = opened(), CONFIGS["smollm2-135m"]
    ours = config.build().eval()
    load_into(ours, file, gguf_keys(config))
    oracle = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size, hidden_size=config.width, num_hidden_layers=config.depth,
            num_attention_heads=9, num_key_value_heads=3, intermediate_size=1536, rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 100000.0}, max_position_embeddings=8192,
            tie_word_embeddings=True, attn_implementation="sdpa",
        )
    ).eval()  # fmt: skip
    tensors = export_tensors(ours, hf_keys(config))
    missing, unexpected = oracle.load_state_dict(tensors, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected
    oracle.tie_weights()
    model = MultimodalLM({}, {}, ours, {})
    processor = Processor(tokenizer=tokenizer(), template=SMOLLM2)
    length = 64 if FULL else 24
    model64, oracle64 = MultimodalLM({}, {}, copy.deepcopy(ours).double(), {}), copy.deepcopy(oracle).double()
    pairs = {torch.float32: (model, oracle), torch.float64: (model64, oracle64)}
    worst = dict.fromkeys(pairs, 0.0)
    for prompt in PROMPTS if FULL else PROMPTS[:3]:
        batch = processor([{"role": "user", "content": prompt}], generate=True)
        with torch.inference_mode():
            for dtype, (mine, other) in pairs.items():
                error = (mine(**batch).logits - other(batch["input_ids"]).logits).abs().max().item()
                worst[dtype] = max(worst[dtype], error)
            theirs = oracle.generate(
                batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=length, do_sample=False,
                eos_token_id=2, pad_token_id=2,
            )[0, batch["input_ids"].shape[1] :].tolist()  # fmt: skip
        said = generate(model, batch, SamplingOptions(max_tokens=length))[0].ids
        end = theirs.index(2) if 2 in theirs else len(theirs)
        assert list(said)[:end] == theirs[:end], prompt
    print("max abs error of the logits", worst)
    assert all(worst[dtype] <= TOLERANCE[dtype] for dtype in pairs)
