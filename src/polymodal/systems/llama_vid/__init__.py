"""LLaMA-VID: a LLaVA that keeps two tokens of a video's frame, one of which the question chose.

Paper: LLaMA-VID: An Image is Worth 2 Tokens in Large Language Models (arXiv 2311.17043).

    frame -> 224 or 336 pixels a side -> EVA ViT-g/14, 39 of 40 blocks, no norm [F, 257, 1408]
          -> what the question finds (Q-Former, one attention), and patches or their mean [F * 2, D]
          -> spliced at id -200 (videos: -201) -> Vicuna v1.5 -> text                              (fusion type C)

Traps: models of pictures keep all patches (257 or 577 tokens), `compress_type` says so; features of a picture change
with the question beside it; files and names: `checkpoint.py`, what is asked of which frame: `processing.py`.
"""

from typing import Any

from polymodal.systems import CheckpointFormat, ConfigMatch, Repository, System, Variant
from polymodal.systems.llama_vid.checkpoint import gather, parse_config
from polymodal.systems.llama_vid.recipe import RECIPE

SIZES = {"7b": (4096, 32, 32, 11008), "13b": (5120, 40, 40, 13824)}


def variant(name: str, parameters: int, side: int, **more: Any) -> Variant:
    """A published size; its config.json is LLaMA's, and `mm_*`."""
    width, depth, heads, ffn = SIZES[name.split("-")[0]]
    config = {"model_type": "llava", "architectures": ["LlavaLlamaAttForCausalLM"], "hidden_size": width,
              "num_hidden_layers": depth, "num_attention_heads": heads, "num_key_value_heads": heads,
              "intermediate_size": ffn, "vocab_size": 32000, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096,
              "mm_vision_tower": "./model_zoo/LAVIS/eva_vit_g.pth", "mm_hidden_size": 1408, "num_query": 32,
              "image_processor": f"./llamavid/processor/clip-patch14-{side}", "bert_type": "qformer_pretrain",
              "mm_projector_type": "mlp2x_gelu", "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
              "mm_use_im_start_end": False, "image_aspect_ratio": "pad", "compress_type": None, **more}  # fmt: skip
    release = Repository(name=f"YanweiLi/llama-vid-{name}", license="CC BY-NC 4.0; Llama 2 community")
    return Variant(name=name, parameters=parameters, config=config, repository=release)


LONG = {"rope_scaling": {"type": "linear", "factor": 16.0}, "max_token": 65536, "compress_type": "mean"}
SYSTEM = System(
    id="llama-vid",
    aliases=("LLaMA-VID",),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image", "video"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="official LlavaLlamaAttForCausalLM",
            parse_config=parse_config,
            matches=ConfigMatch(architectures=("LlavaLlamaAttForCausalLM",)),
            gather=gather,
            one_file=True,
        ),
    ),
    variants=(
        variant("7b-full-224-video-fps-1", 7_941_388_160, 224, compress_type="mean"),
        variant("7b-full-224", 7_941_388_160, 224),
        variant("7b-full-336", 7_941_838_720, 336),
        variant("7b-full-224-long-video", 7_941_388_160, 224, **LONG),
        variant("13b-full-224-video-fps-1", 14_231_160_704, 224, compress_type="mean"),
        variant("13b-full-336", 14_231_611_264, 336),
    ),
    headline="answers questions about a video of which each frame is two tokens, one of them chosen by the question",
    reference="arXiv 2311.17043",
    recipe=RECIPE,
)
