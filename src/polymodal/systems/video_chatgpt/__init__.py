"""Video-ChatGPT: a LLaVA that watches videos, pooled once over their frames and once over their patches.

Paper: Video-ChatGPT: Towards Detailed Video Understanding via Large Vision and Language Models (arXiv 2306.05424).

    video -> up to 100 frames of 224 x 224 -> CLIP ViT-L/14, input of its last block, no class token [F, 256, 1024]
          -> means over patches (100, zeros behind a short video) and over frames (256) -> linear [356, 4096]
          -> spliced at `<vid_patch>` between `<vid_start>` and `<vid_end>` behind the question -> Vicuna -> text   (C)

Traps: published is one file of the linear and the word embeddings, to lie in the folder of LLaVA-Lightning-7B-v1-1
(`checkpoint.py`); frames are chosen by their number and shrunk to the nearest pixel, whatever their proportions;
training has the video in front of every other question, the published inference behind all.
"""

from polymodal.systems import (
    AdamW,
    Budget,
    CheckpointFormat,
    ConfigMatch,
    Cosine,
    DataSource,
    LanguageModeling,
    Repository,
    Stage,
    System,
    Variant,
)
from polymodal.systems.video_chatgpt.checkpoint import CLASS, gather, parse_config, score

CONFIG = {"model_type": "VideoChatGPT", "architectures": [CLASS], "hidden_size": 4096, "num_hidden_layers": 32,
          "num_attention_heads": 32, "intermediate_size": 11008, "vocab_size": 32006, "rms_norm_eps": 1e-6,
          "max_position_embeddings": 2048, "mm_vision_tower": "openai/clip-vit-large-patch14", "mm_hidden_size": 1024,
          "mm_vision_select_layer": -2, "use_mm_proj": True}  # fmt: skip
SYSTEM = System(
    id="video-chatgpt",
    aliases=("Video-ChatGPT",),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "video"),
    outputs=("text",),
    formats=(
        CheckpointFormat(
            name="official VideoChatGPTLlamaForCausalLM",
            parse_config=parse_config,
            matches=ConfigMatch(
                score=score, model_types=("VideoChatGPT",), architectures=(CLASS, "LlavaLlamaForCausalLM")
            ),
            gather=gather,
            one_file=True,
        ),
    ),
    variants=(
        Variant(name="7b", parameters=7_045_842_944, config=CONFIG,
                repository=Repository(name="MBZUAI/Video-ChatGPT-7B", license="CC BY-NC-SA 4.0; LLaMA")),
    ),
    headline="answers questions about a video from what it shows at each time and at each place",
    reference="arXiv 2306.05424",
    recipe=(
        Stage(
            name="instruct",
            data=(DataSource(name="VideoInstruct100K", kind="conversations", samples=100_010),),
            objective=LanguageModeling(),
            train=("connectors.video",),
            optimizer=AdamW(lr=2e-5, clip=1.0),
            schedule=Cosine(warmup_ratio=0.03),
            budget=Budget(batch=32, epochs=3, max_length=2048, precision="bfloat16"),
            start="llava:7b-v1.1",
            note="the embeddings of <vid_start> and <vid_end> learn too; the linear starts from LLaVA's",
        ),
    ),
)  # fmt: skip
