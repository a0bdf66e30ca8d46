"""VITA 1.0: pictures, videos, sound and text into one Mixtral, which says of a sound whether it was meant for it.

Paper: VITA: Towards Open-Source Interactive Omni Multimodal LLM (arXiv 2408.05211).

    picture -> 1 to 12 tiles and the whole, video -> 4 to 16 frames -> InternViT-300M [1024, 1024] -> times 0.5
            -> 2 x 2 neighbours joined -> linear, GELU, linear [256, 4096]                           (fusion type C)
    sound   -> filter banks of 10 ms -> Whale [S, 1024], a feature each 40 ms -> convolution [S / 2, 4096]
    Mixtral 8x7B with 51,760 words -> <1> an answer | <2> nothing, the sound was noise | <3> an answer to typed text

`duplex.py` runs two instances at once: one answers, the other hears, and interrupts it when it is spoken to.
Traps: see `processing.py` for the order of a message, `checkpoint.py` for names, `encoders/whale.py` for positions.
"""

from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.vita.checkpoint import AUDIO, VISION, parse_config
from polymodal.systems.vita.recipe import RECIPE

TEXT = {"model_type": "mixtral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "num_experts_per_tok": 2, "num_local_experts": 8,
        "max_position_embeddings": 32768, "rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "sliding_window": None,
        "router_aux_loss_coef": 0.02, "output_router_logits": False, "tie_word_embeddings": False,
        "vocab_size": 51760}  # fmt: skip
DEMONSTRATION = {"model_type": "mixtral_multimodal", "architectures": ["MixtralForConditionalGeneration"],
                 "text_config": TEXT, "vision_config": VISION, "audio_config": AUDIO, "downsample_ratio": 0.5,
                 "dynamic_image_size": True, "max_dynamic_patch": 12, "min_dynamic_patch": 1, "use_thumbnail": True,
                 "vision_feature_layer": -1, "tokenizer_model_max_length": 4600}  # fmt: skip

SYSTEM = System(
    id="vita",
    aliases=("VITA", "VITA-1.0"),
    year=2024,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image", "video", "audio"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="demonstration's MixtralForConditionalGeneration",
            parse_config=parse_config,
            matches=hf("mixtral_multimodal", "MixtralForConditionalGeneration"),
        ),
        CheckpointFormat(
            name="release's VITAMixtralForCausalLM",
            parse_config=parse_config,
            matches=hf("vita-mixtral", "VITAMixtralForCausalLM"),
        ),
    ),
    variants=(
        Variant(
            name="8x7b",
            parameters=47_579_076_608,
            config=DEMONSTRATION,
            repository=Repository(name="VITA-MLLM/VITA", license="Apache-2.0; terms of the repository's License.txt"),
        ),
    ),
    headline="answers what is said to it, ignores what is not, and can be interrupted while it answers",
    reference="arXiv 2408.05211",
    recipe=RECIPE,
)
