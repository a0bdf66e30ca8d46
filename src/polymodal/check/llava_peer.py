"""A LLaVA of random vision around a language model of `transformers`, as a folder that both libraries load.

    write_llava(folder, peer) -> CLIP ViT-B/16 [N, 196, 768] -> linear, GELU, linear -> the peer's own decoder

Random vision costs what a trained one does, and both sides must still write the same tokens.  The tokenizer is one of
bytes: what a conversation is made of does not matter here, and ids are compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from polymodal.check import library
from polymodal.check.demo import byte_tokenizer, write_config

BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
        "image_size": 224, "patch_size": 16}  # fmt: skip
SPECIALS = ("<s>", "</s>", "<image>")
TOKENS = 1024
"""What its conversations may need of the context."""


def is_fitting(peer: Any) -> bool:
    """Whether `write_llava` can be built around it: a float32 LLaMA with room for a picture."""
    config = getattr(peer, "config", None)
    if config is None or config.model_type != "llama":
        return False
    room = config.max_position_embeddings >= TOKENS and config.vocab_size >= 256 + len(SPECIALS)
    return room and next(peer.parameters()).dtype == torch.float32


def write_llava(folder: Path, peer: Any, vision: dict[str, int] | None = None) -> None:
    """Weights, config, tokenizer and preprocessor.  vision: the sizes of its CLIPVisionConfig, default ViT-B/16."""
    sizes = vision or BASE
    with library.quiet() as transformers:
        config = transformers.LlavaConfig(
            vision_config={"model_type": "clip_vision_model", **sizes},
            text_config=peer.config,
            image_token_index=SPECIALS.index("<image>"),
            tie_word_embeddings=peer.config.tie_word_embeddings,
        )
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            model = transformers.LlavaForConditionalGeneration(config)
        library.part(model, "model.language_model").load_state_dict(library.part(peer, "model").state_dict())
        model.lm_head.load_state_dict(peer.lm_head.state_dict())
        library.saved(model, folder)
    byte_tokenizer(folder, SPECIALS, bos="<s>", eos="</s>", pad="</s>")
    side = sizes["image_size"]
    crop = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    write_config(folder, preprocessor_config=crop)


def load_llava(folder: Path) -> Any:
    """As `transformers` loads it, for inference."""
    with library.quiet() as transformers:
        return transformers.LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
