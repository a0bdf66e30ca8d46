"""OpenFlamingo: few-shot answers from pictures and texts in turn, by gated blocks in a frozen language model.

Paper: OpenFlamingo (arXiv 2308.01390); the design is Flamingo's (arXiv 2204.14198).

    vision_x [B, N, 1, 3, 224, 224] -> CLIP ViT-L/14, patches of the last layer, not normed [items, 256, 1024]
        -> Perceiver resampler [items, 64, 1024] -> keys and values of the gated blocks              (fusion type A)
    `<image>` once per picture: each token sees the last picture at or before it
    -> MPT-1B, RedPajama-INCITE-3B or MPT-7B, a gated block in front of the last layer of each group -> text

Traps: the official checkpoint.pt holds no CLIP and no frozen layers, they lie in `vision` and `language` beside it;
new tokens must be added in the order <|endofchunk|>, <image>, <PAD>; heads of the gated blocks are 8 x 64 at any width.
"""

from __future__ import annotations

from polymodal.checkpoints import open_flamingo
from polymodal.systems import (
    CheckpointFormat,
    System,
    hf,
)
from polymodal.systems.openflamingo.checkpoint import _variant, infer, parse_config
from polymodal.systems.openflamingo.recipe import RECIPE

SYSTEM = System(
    id="openflamingo",
    aliases=("OpenFlamingo", "OpenFlamingo v2", "Open-Flamingo"),
    year=2023,
    fusion=("A",),
    assembly="MultimodalLM",
    inputs=("text", "image"),
    outputs=("text",),
    formats=(
        CheckpointFormat(name="official open_flamingo", parse_config=parse_config, matches=hf("open_flamingo"),
               gather=lambda files: open_flamingo.gather(files.folder), infer=infer, entry=("model_state_dict", "")),
    ),
    variants=(
        _variant("3B-vitl-mpt1b", "3b", 2_559_117_360, "MIT; language model Apache-2.0"),
        _variant("3B-vitl-mpt1b-langinstruct", "3b", 2_559_117_360, "MIT; language model Apache-2.0"),
        _variant("4B-vitl-rpj3b", "4b", 4_039_816_224, "MIT; language model Apache-2.0"),
        _variant("4B-vitl-rpj3b-langinstruct", "4b", 4_039_816_224, "MIT; language model Apache-2.0"),
        _variant("9B-vitl-mpt7b", "9b", 8_131_465_232, "MIT; language model Apache-2.0"),
    ),
    headline="few-shot captions and answers: examples of pictures with texts in the prompt, no training",
    reference="arXiv 2308.01390",
    recipe=RECIPE,
)  # fmt: skip
