"""How a LLaVA's folder writes a conversation: by its own chat template, else by the format of its language model.

chat_template.json | chat_template.jinja | tokenizer_config.json -> ChatTemplate, which writes the line end behind
`<image>` itself;  without one -> the system's format, or the one whose tokens the vocabulary has
"""

from __future__ import annotations

from polymodal.checkpoints.record import CheckpointFiles
from polymodal.data.chat_formats import by_vocabulary
from polymodal.data.template import Format, Special, Template, Words, Written
from polymodal.data.tokenizer import Tokenizer

IMAGE = "<image>"


def llava_format(files: CheckpointFiles, tokenizer: Tokenizer, default: Template) -> tuple[Format, tuple[Written, ...]]:
    """The format, and what stands behind the placeholders of a picture beside what it writes.

    default: of the system, for vocabularies that have its special tokens.
    """
    own = files.chat_template(tokenizer, {"image": IMAGE})
    if own is not None:
        return own, ()
    named = {segment.name for segment in default.begin if isinstance(segment, Special)}
    fits = named <= tokenizer.special_tokens.keys()
    return default if fits else by_vocabulary(tokenizer.special_tokens) or default, (Words(text="\n"),)
