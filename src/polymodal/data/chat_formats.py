"""Published conversation formats that several systems share, as templates.

    vicuna    SYSTEM USER: question ASSISTANT: answer</s>USER: ...      (Vicuna v1.1 and v1.5, arXiv 2306.05685)
"""

from __future__ import annotations

from polymodal.data.template import Special, Template, Turn, Words

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
LLAVA_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions."
)


def vicuna(system: str | None = VICUNA_SYSTEM, *, begin: bool = True) -> Template:
    """The format of Vicuna v1.1 and later: one line, a space after the question, the end token after the answer."""
    # The space after the colon is the model's to write: it begins the first word of the answer.
    said = (Words(text="ASSISTANT:"), Words(text=" ", learn=True))
    turns = {
        "system": Turn(after=(Words(text=" "),)),
        "user": Turn(before=(Words(text="USER: "),), after=(Words(text=" "),)),
        "assistant": Turn(before=said, after=(Special(name="</s>", learn=True),), learn=True),
    }
    start = (Special(name="<s>"),) if begin else ()
    return Template(turns=turns, begin=start, ask=(Words(text="ASSISTANT:"),), default_system=system)
