"""MoE-LLaVA: a small LLaVA every second of whose MLPs is four experts, two of them for each token.

Paper: MoE-LLaVA: Mixture of Experts for Large Vision-Language Models (arXiv 2401.15947).

    picture -> 336 x 336 -> CLIP ViT-L/14 (384: SigLIP), input of its last block [N, 576, 1024]
            -> linear, GELU, linear [N, 576, D] -> spliced at id -200
            -> StableLM 2 1.6B or Phi-2, layers 0, 2, 4, ... with 4 experts -> text                   (fusion type B)

Traps: all tokens, of text and of pictures, take the same experts; the end token is `<|endoftext|>`, no token begins a
prompt; SigLIP's first patch is dropped as if it were a class token (`checkpoint.py` has the traps of routing).
"""

from typing import Any

from polymodal.systems import CheckpointFormat, ConfigMatch, Repository, System, Variant
from polymodal.systems.moe_llava.checkpoint import FAMILIES, OTHERS, gather, parse_config
from polymodal.systems.moe_llava.recipe import RECIPE

STABLELM = {"model_type": "moe_llava_stablelm", "architectures": ["MoELLaVAStablelmForCausalLM"], "hidden_size": 2048,
            "num_hidden_layers": 24, "num_attention_heads": 32, "num_key_value_heads": 32, "intermediate_size": 5632,
            "vocab_size": 100352, "rope_pct": 0.25, "norm_eps": 1e-5, "use_qkv_bias": True,
            "max_position_embeddings": 4096}  # fmt: skip
PHI = {"model_type": "moe_llava_phi", "architectures": ["MoELLaVAPhiForCausalLM"], "hidden_size": 2560,
       "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32, "intermediate_size": 10240,
       "vocab_size": 51200, "partial_rotary_factor": 0.4, "layer_norm_eps": 1e-5, "hidden_act": "gelu_new",
       "max_position_embeddings": 2048}  # fmt: skip
CLIP, SIGLIP = "openai/clip-vit-large-patch14-336", "google/siglip-so400m-patch14-384"


def variant(name: str, parameters: int, text: dict[str, Any], repository: str, tower: str = CLIP) -> Variant:
    """A published size with four experts in every second layer."""
    layers = list(range(0, text["num_hidden_layers"], 2))
    moe = {"moe_enable": True, "moe_mode": "sparse", "moe_layers_idx": layers, "num_experts": [4] * len(layers),
           "ep_size": 1, "top_k_experts": 2, "capacity_factor": 1.5, "eval_capacity_factor": 2.0, "min_capacity": 0,
           "use_residual": False, "router_aux_loss_coef": 0.01}  # fmt: skip
    config = {**text, "mm_image_tower": tower, "mm_hidden_size": 1024 if tower == CLIP else 1152, "moe": moe,
              "image_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
              "image_aspect_ratio": "pad", "mm_use_im_start_end": False, "mm_use_im_patch_token": False}  # fmt: skip
    release = Repository(name=f"LanguageBind/MoE-LLaVA-{repository}", license="Apache-2.0")
    return Variant(name=name, parameters=parameters, config=config, repository=release)


SYSTEM = System(
    id="moe-llava",
    aliases=("MoE-LLaVA",),
    year=2024,
    fusion=("B",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="official MoE-LLaVA",
            parse_config=parse_config,
            matches=ConfigMatch(model_types=(*FAMILIES, *OTHERS)),
            gather=gather,
            one_file=True,
        ),
    ),
    variants=(
        variant("stablelm-1.6b-4e", 3_200_124_928, STABLELM, "StableLM-1.6B-4e"),
        variant("phi2-2.7b-4e", 5_609_732_096, PHI, "Phi2-2.7B-4e"),
        variant("stablelm-1.6b-4e-384", 3_325_105_216, STABLELM, "StableLM-1.6B-4e-384", SIGLIP),
        variant("phi2-2.7b-4e-384", 5_734_777_920, PHI, "Phi2-2.7B-4e-384", SIGLIP),
    ),
    headline="answers questions about a picture with two of four experts for each token of every second layer",
    reference="arXiv 2401.15947",
    recipe=RECIPE,
)
