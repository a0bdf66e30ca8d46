"""Unified-IO 2's words: LLaMA's with other first ids, 200 sentinels, 1000 locations, and names of modalities and tasks.

    0 <s> (also padding), 1 </s>, 2 <unk>, LLaMA's pieces from 3, <extra_id_1199> .. <extra_id_0> from 32,000,
    <image_history_1>, <audio_history_1> .. 8, <image_input>, <audio_input>, [Text] [S] .. [Audio] [R]

Trap: each of the added names takes the space before it along, as a piece of LLaMA's.
"""

from __future__ import annotations

import json
from dataclasses import replace

from polymodal.data.sentencepiece import CONTROL, USER_DEFINED, read_sentencepiece
from polymodal.data.sentencepiece_pipelines import SPACE, plain
from polymodal.data.token_settings import read_settings
from polymodal.data.tokenizer import Tokenizer
from polymodal.errors import ConfigError
from polymodal.systems import CheckpointFiles

SENTINELS, LOCATIONS, HISTORY = 200, 1000, 8
PREFIXES = ("[Text] [S]", "[Text] [R]", "[Text] [X]", "[Image] [S]", "[Image] [R]", "[Audio] [S]", "[Audio] [R]")
ADDED = (
    *(f"<extra_id_{number}>" for number in reversed(range(SENTINELS + LOCATIONS))),
    *(f"<{kind}_history_{number}>" for number in range(1, HISTORY + 1) for kind in ("image", "audio")),
    "<image_input>", "<audio_input>", *PREFIXES,
)  # fmt: skip


def vocabulary(files: CheckpointFiles, rows: int) -> Tokenizer:
    """The words of a folder: LLaMA's `tokenizer.model`, or a tokenizer.json whose first ids are right already.

    Raises ConfigError for more words than `rows` of the table.
    """
    path = files.folder / "tokenizer.model"
    if path.is_file():
        model = read_sentencepiece(path.read_bytes(), where=str(path))
        order = [1, 2, 0, *range(3, len(model.pieces))]
        added = tuple(f"{SPACE}{name.replace(' ', SPACE)}" for name in ADDED)
        model = replace(
            model, unknown=2, pieces=(*(model.pieces[i] for i in order), *added),
            scores=(*(model.scores[i] for i in order), *[0.0] * len(added)),
            kinds=(*(model.kinds[i] for i in order), *[USER_DEFINED] * len(added)))  # fmt: skip
        control = [text for _, text in model.of_kind(CONTROL)]
        tokenizer = Tokenizer(
            plain(model, read_settings(files.folder)).pipeline, control=control, eos="</s>", pad="<s>"
        )
    else:
        table = json.loads(files.tokenizer().to_json())
        first = len(table["model"]["vocab"])
        table["added_tokens"] += [
            {"id": first + index, "content": name, "single_word": False, "lstrip": True, "rstrip": False,
             "normalized": False, "special": False} for index, name in enumerate(ADDED)]  # fmt: skip
        tokenizer = Tokenizer.from_json(json.dumps(table), where=str(files.folder), eos="</s>", pad="<s>")
    if tokenizer.vocab_size > rows:
        raise ConfigError(f"unified-io-2: {tokenizer.vocab_size} words and names for a vocabulary of {rows}")
    return tokenizer
