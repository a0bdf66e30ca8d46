"""PaLM-E: pictures, states of objects and scenes of slots stand as embeddings among the words that PaLM reads.

Paper: PaLM-E (arXiv 2303.03378).  Neither code nor weights were released; names on disk are those of the nearest
released architectures (Cohere's decoder, the hub's ViT, github.com/stelzner/osrt).

    picture 224 x 224 -> ViT-4B or ViT-22B, every patch [N, 256, D'] -> one affine map [N, 256, D]           (C)
    states [n, S] of n objects -> MLP -> an embedding each             "Obj 1 is <..>. Obj 2 is <..>. Q: ... A:"
    posed views of a scene -> OSRT slots [N, K, 1536] -> MLP, several embeddings each slot     named like objects
    any of them anywhere in the text -> PaLM -> answers, or plans in words, which policies of their own carry out

Traps: "A:" is part of what is learned; a state of one vector stands as a picture does, only rows of several are named.
From the paper: parts, prompts, data.  Not published: resolution (ViT's own 224), width of a state, layers of the MLPs
(two), embeddings of a slot, rates.  A person's own code for plans and steps: `plans.py`.
"""

from __future__ import annotations

from polymodal.systems import CheckpointFormat, System, Variant, hf
from polymodal.systems.palm_e.checkpoint import OBJECTS, PALM, SLOTS, VIT, parse_config, sized
from polymodal.systems.palm_e.recipe import RECIPE

SYSTEM = System(
    id="palm-e",
    aliases=("PaLM-E", "PaLM-E-562B"),
    year=2023,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image", "state", "scene"),
    outputs=("text",),
    formats=(CheckpointFormat(name="names of Cohere, ViT and OSRT", parse_config=parse_config, matches=hf("palm-e")),),
    variants=(
        Variant(name="12b", parameters=12_444_774_656, config=sized(PALM["8b"], vision_config=VIT["4b"])),
        Variant(name="84b", parameters=84_296_548_352, config=sized(PALM["62b"], vision_config=VIT["22b"])),
        Variant(name="562b", parameters=562_220_285_952, config=sized(PALM["540b"], vision_config=VIT["22b"])),
        Variant(name="8b-state", parameters=8_648_851_456, config=sized(PALM["8b"], state_config=OBJECTS)),
        Variant(name="62b-state", parameters=62_529_282_048, config=sized(PALM["62b"], state_config=OBJECTS)),
        Variant(name="8b-osrt", parameters=8_763_298_464, config=sized(PALM["8b"], scene_config=SLOTS)),
    ),
    headline="pictures, states and scenes as words of a sentence, and plans as steps in words",
    reference="paper: PaLM-E, arXiv 2303.03378",
    recipe=RECIPE,
)
