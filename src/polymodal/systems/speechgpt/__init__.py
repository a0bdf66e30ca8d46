"""SpeechGPT: a LLaMA among whose words are 1000 units of speech, so that it listens and speaks as it reads and writes.

Paper: SpeechGPT (arXiv 2305.11000).

    recording -> mHuBERT, layer 11 -> nearest of 1000 centroids -> merged -> <sosp><661>...<eosp>
    words and units -> LLaMA-7B, its tables longer by units and marks                              (fusion D)
    answer -> "words heard; [ta] words; [ua] <sosp>...<eosp>" -> unit HiFi-GAN -> samples

Files: the language model; beside it `speech2unit/` and `vocoder/`, as the official code keeps them
(checkpoints/unit_speech.py).  Without them it reads and writes units as text.  The model of spoken dialogue, 7b-com, is
a PEFT adapter of 7b-cm: `pm.load(cm, system="speechgpt").attach(com)`.
Traps: nothing in config.json is SpeechGPT's but the length of its tables; requests to recognise or to read aloud need
"this is input: " in front of the speech or text; recordings have 1,600,000 samples at most.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from polymodal.checkpoints.language_model import llama, named_after
from polymodal.generators.unit_vocoder import KNOWN
from polymodal.systems import CheckpointFormat, ConfigMatch, Repository, System, Variant, hf
from polymodal.systems.speechgpt.checkpoint import MHUBERT, VOCODER, parse_config, parse_encoder, parse_vocoder
from polymodal.systems.speechgpt.recipe import RECIPE

LICENSE = "LLaMA's licence applies; code Apache-2.0"
MARKED = {"7b-cm": 33_006, "7b-ma": 33_002}  # rows: LLaMA's 32000, units, and the marks that each stage's script adds
TABLES = {"num_embeddings": 1000, "embedding_dim": 128, "model_in_dim": 128, "upsample_rates": [5, 4, 4, 2, 2],
          "upsample_kernel_sizes": [11, 8, 8, 4, 4], "upsample_initial_channel": 512, "resblock": "1",
          "resblock_kernel_sizes": [3, 7, 11], "resblock_dilation_sizes": [[1, 3, 5]] * 3, "code_hop_size": 320,
          "dur_predictor_params": {"encoder_embed_dim": 128, "var_pred_hidden_dim": 128, "var_pred_kernel_size": 3,
                                   "var_pred_dropout": 0.5}}  # fmt: skip


def score(config: Mapping[str, Any]) -> int:
    """By its name, or by the rows of its tables, which no other LLaMA has."""
    return 3 if config.get("vocab_size") in MARKED.values() else named_after("speechgpt")(config)


def _release(name: str, rows: int) -> Variant:
    return Variant(
        name=name,
        parameters=6_738_415_616 + (rows - 32_000) * 2 * 4096,
        config=llama(4096, 32, 32, 11008, vocab_size=rows, rms_norm_eps=1e-6, max_position_embeddings=2048),
        repository=Repository(name=f"fnlp/SpeechGPT-{name.upper()[:2]}{name[2:]}", license=LICENSE),
    )


_LLAMA = hf("llama", "LlamaForCausalLM")
SYSTEM = System(
    id="speechgpt",
    aliases=("SpeechGPT", "SpeechGPT-7B"),
    year=2023,
    fusion=("D",),
    assembly="MultimodalLM",
    inputs=("text", "audio"),
    outputs=("text", "audio"),
    headline="listens and speaks with units of speech as words of one language model",
    reference="arXiv 2305.11000",
    formats=(
        CheckpointFormat(name="transformers LlamaForCausalLM", parse_config=parse_config,
                         matches=replace(_LLAMA, score=lambda config: score(config) if _LLAMA(config) else 0)),
        CheckpointFormat(name="fairseq CodeHiFiGAN, the vocoder alone", parse_config=parse_vocoder,
                         matches=ConfigMatch(keys=KNOWN), entry=("generator", "")),
        CheckpointFormat(name="transformers HubertModel, mHuBERT alone", parse_config=parse_encoder,
                         matches=hf("hubert", "HubertModel"), entry=("model", "")),
    ),
    variants=(
        *(_release(*each) for each in MARKED.items()),
        Variant(name="vocoder", parameters=VOCODER, config=TABLES, format=1),
        Variant(name="mhubert", parameters=MHUBERT + 7_087_872 + 768, config={"model_type": "hubert"}, format=2),
    ),
    recipe=RECIPE,
)  # fmt: skip
