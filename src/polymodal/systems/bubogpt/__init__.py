"""BuboGPT (arXiv 2307.08581): pictures and sounds in one chat, each through a Q-Former of its own.

    pixel_values [N, 3, 224, 224] -> EVA ViT-g, BLIP-2's Q-Former -> linear [N, 32, D]
    sound [N, 7, 1, 128, 204] -> ImageBind's audio trunk, every token normalised, mean of the clips [N, 229, 768]
                              -> a second Q-Former -> linear [N, 32, D]
    {system}###Human: <Vision>..</Vision>###Human: <Audio>..</Audio> {question}###Assistant:        -> Vicuna v0

Traps: no head of ImageBind is used, but its factor of 20 is; what is heard beside the six clips is the whole recording;
the second Q-Former was never cut, so files hold a text side that nobody uses.  The masks that its demo draws (a tagger,
a detector and a language model behind a service, all untrained) are no part of the model.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.bubogpt.checkpoint import gather, parse_config
from polymodal.systems.bubogpt.recipe import RECIPE


def _variant(name: str, parameters: int, width: int, depth: int, ffn_width: int, hub: str) -> Variant:
    text = {"model_type": "llama", "hidden_size": width, "num_hidden_layers": depth, "vocab_size": 32000,
            "num_attention_heads": width // 128, "intermediate_size": ffn_width, "rms_norm_eps": 1e-6}  # fmt: skip
    repository = Repository(name=hub, license="BSD-3-Clause") if hub else None
    return Variant(name=name, parameters=parameters, repository=repository,
                   config={"model_type": "bubogpt", "text_config": text})  # fmt: skip


SYSTEM = System(
    id="bubogpt",
    aliases=("BuboGPT",),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("image", "audio", "text"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="official BuboGPT",
            parse_config=parse_config,
            matches=hf("bubogpt"),
            entry=("model", ""),
            gather=gather,
        ),
    ),
    variants=(
        _variant("7b", 8_103_732_154, 4096, 32, 11008, "magicr/BuboGPT-ckpt"),
        _variant("13b", 14_382_755_770, 5120, 40, 13824, ""),
    ),
    headline="answers about a picture and a sound at once, each through a Q-Former of its own",
    reference="arXiv 2307.08581",
    recipe=RECIPE,
)
