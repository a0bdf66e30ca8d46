"""A SpeechGPT folder whose weights are written by hand: whatever it is asked, it answers the same.

Each token is one place of the embedding, blocks add nothing, and the head says which token follows which: the space
behind "[SpeechGPT]:" is followed by the answer, which ends.
"""

import itertools
from pathlib import Path

import torch

from polymodal.check.demo import write_config, write_weights
from polymodal.check.evidence.speechgpt import MARKS, SPECIALS, tiny
from polymodal.check.unit_speech import tokenizer_with_units, write_ears, write_voice
from polymodal.checkpoints.record import CheckpointFiles
from polymodal.checkpoints.unit_speech import EARS, VOICE
from polymodal.pipelines.speech_units import MERGED
from polymodal.systems.speechgpt import SYSTEM

UNITS = (5, 7, 3, 21, 9, 11, 30, 2, 17, 39)
SAID = MERGED.written(UNITS)


def speaking_folder(folder: Path, answer: str = SAID, *, ears: bool = True, voice: bool = True) -> Path:
    """answer: no token of it twice; ears, voice: whether it has what hears, and what speaks."""
    folder.mkdir(exist_ok=True)
    size = tokenizer_with_units(folder, SPECIALS, MARKS)
    config = tiny(size) | {"hidden_size": 320, "num_hidden_layers": 1, "_name_or_path": "SpeechGPT-7B-cm"}
    write_config(folder, config=config, generation_config={"eos_token_id": 2})
    spec = SYSTEM.formats[0].model_spec(config)
    module = spec.build()
    tokenizer = CheckpointFiles(folder).tokenizer()
    (space,) = tokenizer.encode(" ")
    chain = [space, *tokenizer.encode(answer), 2]
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")) or "embed" in name or "lm_head" in name:
                weight.zero_()
        module.backbone.embed_tokens.weight.fill_diagonal_(1.0)
        for before, after in itertools.pairwise(chain):
            module.backbone.lm_head.weight[after, before] = 9.0
    write_weights(folder, module, spec.keys[0])
    if ears:
        write_ears(folder / EARS)
    if voice:
        write_voice(folder / VOICE)
    return folder
