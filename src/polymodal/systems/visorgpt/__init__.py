"""VisorGPT: a small GPT that writes where things are: boxes, joints of people and outlines, as sequences of numbers.

Paper: Learning Visual Prior via Generative Pre-Training (arXiv 2305.13777).  Code: Sierkinhane/VisorGPT (MIT).

    "box; multiple instances; large; 2; 0; person, frisbee" -> [CLS] WordPiece tokens -> a GPT
    -> "; [ person xmin 10 ymin 20 xmax 200 ymax 400 ] [ frisbee ..." [SEP] -> a layout on a canvas of 512 x 512

Traps: the vocabulary is BERT's in lower case with 0 to 511, m0 to m127 and xmin .. ymax behind it; training texts have
two orders: names in front of all places (a), or each inside its brackets (b); joints of 0, 0 are not seen.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, Repository, System, Variant, hf
from polymodal.systems.visorgpt.checkpoint import infer, parse_config
from polymodal.systems.visorgpt.recipe import RECIPE

SYSTEM = System(
    id="visorgpt",
    aliases=("VisorGPT", "Visor-GPT"),
    year=2023,
    fusion=(),
    assembly="MultimodalLM",
    inputs=("text",),
    outputs=("text", "image"),
    formats=(
        CheckpointFormat(
            name="official VisorGPT",
            parse_config=parse_config,
            matches=hf("visorgpt"),
            infer=infer,
            entry=("module", ""),
        ),
    ),
    variants=(
        Variant(
            name="dagger",
            parameters=109_473_024,
            config={"model_type": "visorgpt", "vocab_size": 30769, "hidden_size": 768, "emb_size": 768,
                    "feedforward_size": 3072, "hidden_act": "gelu_fast", "heads_num": 12, "layers_num": 12,
                    "max_seq_length": 1024},
            repository=Repository(name="visorgpt_dagger_ta_tb.pt", kind="official", license="MIT"),
        ),
    ),
    headline="writes plausible boxes, joints and outlines of the things that are asked for, and draws them",
    reference="arXiv 2305.13777",
    recipe=RECIPE,
)  # fmt: skip
