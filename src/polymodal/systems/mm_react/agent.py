"""MM-REACT's conversation: the planner thinks aloud, calls for the Assistant, reads what experts saw, and sums up.

    request -> "is there a new picture?" prompt -> else the main prompt -> else "did you miss a task?" prompt
            -> "Assistant, ..." -> expert -> its lines in the prompt ... -> no watchword -> the answer

The markup, the order of the three prompts, the watchword and the experts' lines are those of microsoft/MM-REACT (MIT,
read at b8f29af); the words around them are ours.  A prompt file of yours is the main prompt up to {chat_history},
{input} and {agent_scratchpad}.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from polymodal.agents.files import Files
from polymodal.agents.offers import Offer, offers
from polymodal.agents.react import SLOT
from polymodal.agents.record import Answer, Clock, Setup, Step
from polymodal.agents.tools import Tool, ToolError, listed
from polymodal.errors import PolymodalError
from polymodal.systems.mm_react.experts import read_words, understand
from polymodal.systems.mm_react.watchword import (
    CARD,
    EDIT,
    FACES,
    FINISH,
    INVOICE,
    LAYOUT,
    OBJECTS,
    OCR,
    RECEIPT,
    SEARCH,
    find_file,
    read,
    written_on,
)

TURNS = 4  # max_iterations of sample.py
STOP = ("<|im_end|>",)
READERS = (OCR, RECEIPT, CARD, LAYOUT, INVOICE)
OFFERS = offers(
    (OBJECTS, "image-to-text object-detection", "what a picture shows, and where"),
    *((name, "optical-character-recognition", "the words in a picture") for name in READERS),
    (EDIT, "image-to-image", "a picture changed as a sentence says"),
    *((name, "", "") for name in (FACES, SEARCH, "PAL-MATH")),
)
SHOWN = """<|im_start|>Human
/image/e1.png
<|im_sep|>AI
1. There is an image in the input
Assistant, what objects do you see in this image? /image/e1.png
<|im_sep|>Assistant
Assistant:
/image/e1.png
Image description is: a dog on a beach.

This image contains objects and their descriptions, object tags

List of object descriptions, and their locations in this image:
dog 40 62

List of object tags seen in this image:
dog
<|im_sep|>AI
1. A dog is seen on a beach
To summerize, the picture shows a dog on a beach
<|im_end|>
<|im_start|>Human
What is written on the sign in /image/e2.png
<|im_sep|>AI
1. There is text in the image, which requires OCR
Assistant, do OCR to this image to find the text /image/e2.png
<|im_sep|>Assistant
Assistant:
/image/e2.png

This image contains text

List of OCR texts (words) seen in this image:
NO ENTRY
<|im_sep|>AI
1. The sign says NO ENTRY
To summerize, NO ENTRY is written on the sign
<|im_end|>
"""
MAIN = """<|im_start|>system
AI talks with a human about pictures and cannot see them. Assistant can: address him as "Assistant, " with a request \
and the name of the picture. He describes objects, does OCR where there is text, and does photo editing. Without \
him, answer what can be answered; begin the answer with "To summerize, ".
<|im_end|>

{trigger}
{shown}
<|im_start|>system
{trigger}
<|im_end|>
"""
NEW = """<|im_start|>system
AI talks with a human about pictures and cannot see them. If a picture is new in the conversation, ask Assistant \
which objects are in it; else only list what you think.
<|im_end|>

<|im_start|>Human
/image/e1.png
<|im_sep|>AI
1. There is an image in the input
2. The image is new in the conversation
Assistant, what objects do you see in this image? /image/e1.png
<|im_end|>
<|im_start|>Human
What colour has it?
<|im_sep|>AI
1. There is no new image in the input
<|im_end|>
"""
TRIGGER = """
Keep the conversation in mind, answer at once what you can, list what you think and ask Assistant for what he has not \
done
"""
MISSED = """
Keep in mind what Assistant can do, and ask him for a task that was missed
"""
SUFFIX = """
{chat_history}

<|im_start|>Human
{input}
<|im_sep|>AI
{agent_scratchpad}"""


class MMReactAgent:
    """A conversation; `history` is what the planner reads of it."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.history = setup, ""
        self.tools: Sequence[Tool] = tuple(self._tool(offer) for offer in OFFERS if setup.tools.first(*offer.tasks))
        main = setup.prompt or MAIN.replace("{shown}", SHOWN)
        self._main = main if setup.prompt else "\n\n".join([main.replace("{trigger}", TRIGGER), SUFFIX])
        self._missed = main if setup.prompt else "\n\n".join([main.replace("{trigger}", MISSED), SUFFIX])
        self._new = "\n\n".join([NEW, SUFFIX])

    def _tool(self, offer: Offer) -> Tool:
        """An expert under its name; it writes about a picture by the picture's name, which `_expert` gives it."""
        box = self.setup.tools
        model = box.first(*offer.tasks)
        assert model is not None
        if offer.name == EDIT:
            return model.named(EDIT, offer.description)
        see = understand if offer.name == OBJECTS else read_words
        return Tool(name=offer.name, task="expert", inputs={"name": "text", "image": "image"}, output="text",
                    run=lambda name, image: see(box, name, image), description=offer.description,
                    model=model.model or model.name)  # fmt: skip

    def ask(self, text: str, given: Sequence[str], files: Files) -> Answer:
        request = " ".join([text.strip(), *(f"/{name}" for name in given)])
        steps: list[Step] = []
        said: list[tuple[str, str]] = []
        before, clock = len(files.made), Clock(self.setup.limits.seconds)
        answer, finish = "", "steps"
        for _ in range(min(TURNS, self.setup.limits.steps)):
            try:
                log, wishes = self._next(request, said)
            except PolymodalError as problem:
                if not steps:
                    raise
                steps.append(Step(tool="planner", arguments="", error=str(problem)))
                finish = "planner"
                break
            if wishes[0][0] == FINISH:
                answer, finish = wishes[0][1], "stop"
                break
            done = [self._step(expert, asked, files) for expert, asked in wishes]
            steps += [step for step, _ in done]
            said.append((log, "\n".join(observed for _, observed in done)))
            if clock.over:
                finish = "seconds"
                break
        text = (
            answer
            or f"(the planner gave no answer; seen so far: {listed(step.result for step in steps if step.result)})"
        )
        self._remember(request, said, answer)
        return Answer(text=text, steps=tuple(steps), made=tuple(files.made[before:]), finish=finish)

    def _remember(self, request: str, said: Sequence[tuple[str, str]], answer: str) -> None:
        between = "".join(
            f"\n<|im_sep|>AI\n{log.strip()}\n<|im_sep|>Assistant\nAssistant:\n{seen}" for log, seen in said
        )
        last = f"<|im_sep|>AI\n{answer}\n<|im_end|>" if answer.strip() else "\n<|im_end|>"
        self.history += "\n" + "\n".join([f"<|im_start|>Human\n{request}", between, last])

    def _next(self, request: str, said: Sequence[tuple[str, str]]) -> tuple[str, list[tuple[str, str]]]:
        """(what the planner wrote, what it asks for), by the three prompts in the official order."""
        pad = "".join(f"{log}\n<|im_sep|>Assistant\nAssistant:\n{seen}\n<|im_sep|>AI\n" for log, seen in said)
        output = self._write(self._new, request, pad)
        found = read(output)
        if found and found[0][0] != FINISH:
            return output, found
        thoughts = "".join(f"{line}\n" for line in output.split("\n") if re.match(r"^\s*\d+\.\s", line))
        whole = f"{thoughts}\n<|im_sep|>AI\n" if thoughts else ""
        whole += self._write(self._main, request, pad)
        found, tries = read(whole), 0
        while found is None:
            whole = written_on(whole)
            pad += whole
            whole += self._write(self._main, request, pad)
            tries += 1
            found = read(whole, tries)
        if found[0][0] == FINISH and "Assistant," not in whole:
            more = self._write(self._missed, request, pad)
            late = read(more)
            if late and late[0][0] != FINISH:
                return f"{whole}\n{more}", late
        return whole, found

    def _write(self, prompt: str, request: str, pad: str) -> str:
        values = {"chat_history": self.history, "input": request, "agent_scratchpad": pad}
        text = SLOT.sub(lambda found: values.get(found[1], found[0]), prompt)
        return self.setup.planner([{"role": "user", "content": text}], STOP)

    def _step(self, expert: str, asked: str, files: Files) -> tuple[Step, str]:
        tool = next((each for each in self.tools if each.name == expert), None)
        begin, made, result, error = time.perf_counter(), "", "", ""
        try:
            if tool is None:
                raise ToolError(f"there is no {expert} here; there are: {listed(each.name for each in self.tools)}")
            result, made = self._expert(tool, asked, files)
        except ToolError as problem:
            error = str(problem)
        step = Step(tool=expert, arguments=asked, result=result, error=error, made=made,
                    model="" if tool is None else tool.model, seconds=time.perf_counter() - begin)  # fmt: skip
        return step, result or error

    def _expert(self, tool: Tool, asked: str, files: Files) -> tuple[str, str]:
        """(what the planner reads, the name of what was made)."""
        begin, _, name = find_file(asked)
        if begin < 0:
            raise ToolError(f"{tool.name}: expected the name of a picture, found {asked[:120]!r}")
        image = files.open(name, "image")
        if tool.name == EDIT:
            made = files.keep(tool.call({"image": image, "text": asked[:begin].strip()}), "photo-editing", name)
            return f"Here is the edited image /{made}", made
        return tool.call({"name": name, "image": image}), ""
