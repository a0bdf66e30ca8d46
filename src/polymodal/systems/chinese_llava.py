"""Chinese-LLaVA of LinkSoul: the first LLaVA in Chinese and English, on Chinese-Llama-2-7b or on Baichuan-7B.

    picture -> 224 x 224 -> CLIP ViT-L/14, no class token [N, 256, 1024]
            -> linear [N, 256, D] -> spliced at `<im_patch>` behind the question -> LLaMA -> text (fusion type C)

Source: the repository LinkSoul-AI/Chinese-LLaVA (llava.py, infer.py, infer_tokenize.py); there is no paper.
Traps: the picture stands behind the words, on a line of its own, so it is moved there; pictures are cropped;
how conversations are cut into texts: `checkpoints/linksoul.py`.  The layout is LLaVA's: a folder is recognised by its
name, by Baichuan's vocabulary, or by `system="chinese-llava"`.  Its training was not published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polymodal.checkpoints import linksoul, official_llava, official_llava_parts
from polymodal.checkpoints.language_model import named_after
from polymodal.data.messages import words_first
from polymodal.data.template import Words
from polymodal.systems import CheckpointFormat, ConfigMatch, ModelSpec, Repository, System, Variant

WORDS = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
ADDED = 3  # <im_patch>, <im_start>, <im_end>


def parse_config(config: Mapping[str, Any]) -> ModelSpec:
    """An official config -> the model; raises ConfigError for options that are not supported."""
    template = (linksoul.baichuan if linksoul.on_baichuan(config, ADDED) else linksoul.chinese_llama_2)(WORDS)
    style = official_llava.PromptStyle(
        template=template, before=(Words(text="\n"),), after=(), legacy=True, rewrite=words_first
    )
    return official_llava.parse_official_config(config, style)


def score(config: Mapping[str, Any]) -> int:
    """3 for what only this system can be, 1 for any LLaVA of one linear map, for `system=` alone."""
    if not official_llava_parts.matches("linear")(config):
        return 0
    return 3 if linksoul.on_baichuan(config, ADDED) else named_after("chinese-llava")(config)


def variant(name: str, repository: str, parameters: int, license: str, **more: Any) -> Variant:
    """A published size; its config.json is LLaMA's, and `mm_*`."""
    config = {"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"],
              "_name_or_path": f"LinkSoul/{repository}", "hidden_size": 4096, "num_hidden_layers": 32,
              "num_attention_heads": 32, "intermediate_size": 11008, "mm_hidden_size": 1024,
              "mm_vision_tower": "openai/clip-vit-large-patch14", "mm_vision_select_layer": -2,
              "mm_use_im_start_end": True, "max_position_embeddings": 4096, **more}  # fmt: skip
    return Variant(name=name, parameters=parameters, config=config,
                   repository=Repository(name=f"LinkSoul/{repository}", license=license))  # fmt: skip


SYSTEM = System(
    id="chinese-llava",
    aliases=("Chinese-LLaVA", "Chinese LLaVA"),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="official LlavaLlamaForCausalLM",
            parse_config=parse_config,
            matches=ConfigMatch(score=score, architectures=("LlavaLlamaForCausalLM",)),
            gather=lambda files: official_llava_parts.gather(files.folder),
            one_file=True,
        ),
    ),
    variants=(
        variant("chinese-llama-2-7b", "Chinese-LLaVA-Cllama2", 7_045_818_368, "Apache-2.0; Llama 2 community",
                vocab_size=32003, rms_norm_eps=1e-5),
        variant("baichuan-7b", "Chinese-LLaVA-Baichuan", 7_307_962_368, "Apache-2.0; Baichuan-7B community",
                vocab_size=64003, rms_norm_eps=1e-6),
    ),
    headline="answers questions about a picture in Chinese and in English",
    reference="github.com/LinkSoul-AI/Chinese-LLaVA",
)  # fmt: skip
