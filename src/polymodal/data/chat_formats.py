"""Published conversation formats that several systems share, as templates.

vicuna    SYSTEM USER: question ASSISTANT: answer</s>USER: ...      (Vicuna v1.1 and v1.5, arXiv 2306.05685)
mistral   [INST] question [/INST] answer</s>[INST] ...              (Mistral Instruct, arXiv 2310.06825)
chatml_direct   ChatML without line ends between turns              (LLaVA-1.6-34B)
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
    said = (Words(text="ASSISTANT:"), Words(text=" ", loss_mask=True))
    turns = {
        "system": Turn(after=(Words(text=" "),)),
        "user": Turn(before=(Words(text="USER: "),), after=(Words(text=" "),)),
        "assistant": Turn(before=said, after=(Special(name="</s>", loss_mask=True),), loss_mask=True),
    }
    start = (Special(name="<s>"),) if begin else ()
    return Template(turns=turns, begin=start, ask=(Words(text="ASSISTANT:"),), default_system=system)


def mistral() -> Template:
    """The format of Mistral Instruct as LLaVA-1.6 writes it; it has no system message."""
    turns = {
        "user": Turn(before=(Words(text="[INST] "),), after=(Words(text=" [/INST]"),)),
        "assistant": Turn(
            before=(Words(text=" ", loss_mask=True),), after=(Special(name="</s>", loss_mask=True),), loss_mask=True
        ),
    }
    return Template(turns=turns, begin=(Special(name="<s>"),))


def chatml_direct(system: str | None = "Answer the questions.") -> Template:
    """ChatML whose turns follow each other without a line end."""

    def turn(role: str) -> Turn:
        answer = role == "assistant"
        before = (Special(name="<|im_start|>"), Words(text=f"{role}\n"))
        return Turn(before=before, after=(Special(name="<|im_end|>", loss_mask=answer),), loss_mask=answer)

    turns = {role: turn(role) for role in ("system", "user", "assistant")}
    return Template(turns=turns, ask=turn("assistant").before, default_system=system)
