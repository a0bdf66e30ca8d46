"""Published conversation formats that several systems share, as templates.

vicuna    SYSTEM USER: question ASSISTANT: answer</s>USER: ...      (Vicuna v1.1 and v1.5, arXiv 2306.05685)
mistral   [INST] question [/INST] answer</s>[INST] ...              (Mistral Instruct, arXiv 2310.06825)
chatml_direct   ChatML without line ends between turns              (LLaVA-1.6-34B)
llama2    <s>[INST] <<SYS>> system <</SYS>> question [/INST] answer </s><s>[INST] ...          (arXiv 2307.09288)
llama3    <|start_header_id|>user<|end_header_id|> question<|eot_id|>...                        (arXiv 2407.21783)

They are for checkpoints without a chat template of their own (`data/chat_template.py`).
"""

from __future__ import annotations

from collections.abc import Collection

from polymodal.data.template import TEXT_START, Special, Template, Turn, Words, chatml

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
LLAVA_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the human's questions."
)


def vicuna(system: str | None = VICUNA_SYSTEM, *, begin: bool = True, end: str = "</s>") -> Template:
    """The format of Vicuna v1.1 and later: one line, a space after the question, the end token after the answer."""
    # The space after the colon is the model's to write: it begins the first word of the answer.
    prefix = (Words(text="ASSISTANT:"), Words(text=" ", loss_mask=True))
    turns = {
        "system": Turn(after=(Words(text=" "),)),
        "user": Turn(before=(Words(text="USER: "),), after=(Words(text=" "),)),
        "assistant": Turn(before=prefix, after=(Special(name=end, loss_mask=True),), loss_mask=True),
    }
    start = (Special(name="<s>"), TEXT_START) if begin else ()
    return Template(turns=turns, begin=start, ask=(Words(text="ASSISTANT:"),), default_system=system)


def mistral() -> Template:
    """The format of Mistral Instruct as LLaVA-1.6 writes it; it has no system message."""
    turns = {
        "user": Turn(before=(Words(text="[INST] "),), after=(Words(text=" [/INST]"),)),
        "assistant": Turn(
            before=(Words(text=" ", loss_mask=True),), after=(Special(name="</s>", loss_mask=True),), loss_mask=True
        ),
    }
    return Template(turns=turns, begin=(Special(name="<s>"), TEXT_START))


def chatml_direct(system: str | None = "Answer the questions.") -> Template:
    """ChatML whose turns follow each other without a line end."""

    def turn(role: str) -> Turn:
        answer = role == "assistant"
        before = (Special(name="<|im_start|>"), Words(text=f"{role}\n"))
        return Turn(before=before, after=(Special(name="<|im_end|>", loss_mask=answer),), loss_mask=answer)

    turns = {role: turn(role) for role in ("system", "user", "assistant")}
    return Template(turns=turns, ask=turn("assistant").before, default_system=system)


def llama2(system: str | None = None) -> Template:
    """The format of Llama 2 Chat: the beginning token before every question, the system message inside the first."""
    turns = {
        "system": Turn(
            before=(Special(name="<s>"), TEXT_START, Words(text="[INST] <<SYS>>\n")),
            after=(Words(text="\n<</SYS>>\n\n"),),
        ),
        "user": Turn(before=(Special(name="<s>"), TEXT_START, Words(text="[INST] ")), after=(Words(text=" [/INST]"),)),
        "assistant": Turn(
            before=(Words(text=" ", loss_mask=True),),
            after=(Words(text=" ", loss_mask=True), Special(name="</s>", loss_mask=True)),
            loss_mask=True,
        ),
    }
    following = {("system", "user"): Turn(after=(Words(text=" [/INST]"),))}
    return Template(turns=turns, following=following, default_system=system)


def llama3(system: str | None = None) -> Template:
    """The format of Llama 3 Instruct: a header for every role, the end of turn after every message."""

    def turn(role: str) -> Turn:
        head = (Special(name="<|start_header_id|>"), Words(text=role), Special(name="<|end_header_id|>"))
        after = (Special(name="<|eot_id|>", loss_mask=role == "assistant"),)
        return Turn(before=(*head, Words(text="\n\n")), after=after, loss_mask=role == "assistant")

    turns = {role: turn(role) for role in ("system", "user", "assistant")}
    begin = (Special(name="<|begin_of_text|>"),)
    return Template(begin=begin, turns=turns, ask=turn("assistant").before, default_system=system)


def plain(begin: str | None = None) -> Template:
    """No format: the messages one after another, for models that only go on with a text.  begin: a special token."""
    start = () if begin is None else (Special(name=begin), TEXT_START)
    return Template(turns={"user": Turn(), "assistant": Turn(loss_mask=True)}, begin=start)


def gemma() -> Template:
    """The format of Gemma: turns of user and model; it has no system message."""

    def turn(role: str, answer: bool) -> Turn:
        before = (Special(name="<start_of_turn>"), Words(text=f"{role}\n"))
        after = (Special(name="<end_of_turn>", loss_mask=answer), Words(text="\n"))
        return Turn(before=before, after=after, loss_mask=answer)

    turns = {"user": turn("user", False), "assistant": turn("model", True)}
    return Template(begin=(Special(name="<bos>"),), turns=turns, ask=turns["assistant"].before)


def format_of_vocabulary(special_tokens: Collection[str]) -> Template | None:
    """The format whose tokens a vocabulary has, for checkpoints that say nothing else of it; None without any."""
    formats = {"<|im_start|>": chatml(default_system=None), "<|start_header_id|>": llama3(), "<start_of_turn>": gemma()}
    return next((template for token, template in formats.items() if token in special_tokens), None)
