"""How a LLaVA's folder writes a conversation: by its own chat template, else by the format of its language model.

chat_template.json | chat_template.jinja | tokenizer_config.json -> ChatTemplate, which writes the line end behind
`<image>` itself;  without one -> the system's format, or the one whose tokens the vocabulary has
"""

from __future__ import annotations

from polymodal.checkpoints.record import CheckpointFiles
from polymodal.data.chat_formats import format_of_vocabulary
from polymodal.data.template import Format, MissingFormat, Special, Template, Words, Written
from polymodal.data.tokenizer import Tokenizer

IMAGE = "<image>"
REASON = (
    "this LLaVA has no chat template, and its vocabulary is that of no language model whose format is known; put its "
    "chat_template.jinja into the folder"
)


def llava_format(files: CheckpointFiles, tokenizer: Tokenizer, default: Template) -> tuple[Format, tuple[Written, ...]]:
    """The format, and what stands behind the placeholders of a picture beside what it writes.

    default: of the system, for vocabularies that have its special tokens.
    """
    own = files.chat_template(tokenizer, {"image": IMAGE})
    if own is not None:
        return own, ()
    newline = (Words(text="\n"),)
    if {segment.name for segment in default.begin if isinstance(segment, Special)} <= tokenizer.special_tokens.keys():
        return default, newline
    known = format_of_vocabulary(tokenizer.special_tokens)
    return MissingFormat(reason=REASON) if known is None else known, newline
