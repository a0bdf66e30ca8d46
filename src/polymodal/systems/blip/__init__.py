"""BLIP: one text transformer that encodes, matches and writes; it also cleans its own training captions (CapFilt).

    picture -> squashed to S x S -> ViT-B/16 or L/16 [N, 1 + (S/16)^2, D] --+
    text -> BERT word pieces --+-> blocks, no source -> [CLS]     -> cosine with the picture's class token
                               +-> blocks + cross-attention       -> [B, 2] match
                               +-> causal blocks + cross-attention -> caption; or, after a question encoder, answer

Paper: BLIP (arXiv 2201.12086).  Weights: Salesforce/blip-* (BSD-3-Clause), in the library's layout; the official
files hold the same tensors under other names.
Traps: no segment embedding though the config names two; eos_token_id 2 is never written, texts end at [SEP] 102; the
library's vision eps is 1e-5, the official code's 1e-6; the pooled vector of BlipModel is normed twice.
"""

from __future__ import annotations

from typing import Any

from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.blip.checkpoint import (
    ANSWER,
    CAPTION,
    JOINT,
    MATCH,
    infer_official,
    parse_config,
    parse_official_config,
)
from polymodal.systems.blip.recipe import RECIPE


def published(kind: str, *, large: bool = False) -> dict[str, Any]:
    """The config.json of Salesforce's checkpoints, without what equals the library's defaults."""
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    return {"model_type": "blip", "architectures": [kind], "vision_config": sizes if large else {},
            "text_config": {"num_attention_heads": 12}}  # fmt: skip


def _variant(name: str, parameters: int, kind: str) -> Variant:
    large = "large" in name and "capfilt" not in name  # what captioned the data was large, not the model
    repository = Repository(name=f"Salesforce/blip-{name}", license="BSD-3-Clause")
    return Variant(name=name, parameters=parameters, config=published(kind, large=large), repository=repository)


PROMPT = "a picture of "
"""What official captions continue: [CLS] becomes [DEC], the [SEP] behind it is cut, and its letters off the answer."""
SYSTEM = System(
    id="blip",
    aliases=("BLIP", "CapFilt"),
    year=2022,
    fusion=("fusion-encoder",),
    assembly="VisionEncoderDecoder",
    inputs=("image", "text"),
    outputs=("text", "match", "similarity"),
    headline="one model for understanding and generation, which captions and filters its own web data (CapFilt)",
    reference="arXiv 2201.12086",
    formats=(
        CheckpointFormat(
            name="transformers Blip", matches=hf("blip", CAPTION, ANSWER, MATCH, JOINT), parse_config=parse_config
        ),
        CheckpointFormat(
            name="official BLIP",
            matches=hf("official-blip"),
            parse_config=parse_official_config,
            infer=infer_official,
            entry=("model", ""),
        ),
    ),
    variants=(
        _variant("image-captioning-base", 223_971_644, CAPTION),
        _variant("image-captioning-large", 446_290_492, CAPTION),
        _variant("vqa-base", 361_230_140, ANSWER),
        _variant("vqa-capfilt-large", 361_230_140, ANSWER),
        _variant("itm-base-coco", 223_744_258, MATCH),
        _variant("itm-large-coco", 446_128_642, MATCH),
        _variant("itm-base-flickr", 223_744_258, MATCH),
        _variant("itm-large-flickr", 446_128_642, MATCH),
    ),
    recipe=RECIPE,
)
