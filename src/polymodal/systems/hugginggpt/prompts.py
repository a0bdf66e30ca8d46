"""What HuggingGPT's planner reads, in our words and the official format: roles, slots, the JSON of tasks and
choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polymodal.agents.tasks import TASKS
from polymodal.systems.hugginggpt.plan import fill

# As config.default.yaml lists them; the format of a task is the published one.
OFFICIAL_TASKS = (
    "token-classification", "text2text-generation", "summarization", "translation", "question-answering",
    "conversational", "text-generation", "sentence-similarity", "tabular-classification", "object-detection",
    "image-classification", "image-to-image", "image-to-text", "text-to-image", "text-to-video",
    "visual-question-answering", "document-question-answering", "image-segmentation", "depth-estimation",
    "text-to-speech", "automatic-speech-recognition", "audio-to-audio", "audio-classification", "canny-control",
    "hed-control", "mlsd-control", "normal-control", "openpose-control", "canny-text-to-image", "depth-text-to-image",
    "hed-text-to-image", "mlsd-text-to-image", "normal-text-to-image", "openpose-text-to-image", "seg-text-to-image",
)  # fmt: skip
PLAN = """Stage 1, planning. Turn the request into a JSON list of tasks:
[{"task": task, "id": task_id, "dep": dependency_task_id, "args": {"text": text or <GENERATED>-dep_id, "image": \
image_url or <GENERATED>-dep_id, "audio": audio_url or <GENERATED>-dep_id}}]
"<GENERATED>-dep_id" stands for the text, image or audio that the task dep_id makes; "dep" lists such ids, or holds \
-1. "args" has text, image and audio and nothing else. Use as few tasks as will do, each one of: {{tasks}}. Where no \
task helps, reply []."""
SELECT = "Stage 2, choosing a model. Read the descriptions and name the model of the list that fits the task best."
RESPOND = "Stage 4, answering. Tell from the record of the tasks what was done and what came out."
ASK_PLAN = """What was said so far: [ {{context}} ]. The request is { {{input}} }. Mind what each task takes and \
makes, and what it waits for."""
ASK_SELECT = """Choose one of {{metas}} for the task {{task}}. Write strict JSON and nothing else: \
{"id": "id", "reason": "why this one"}."""
ASK_RESPOND = """Now answer the request from these results, first of all directly; results may be wrong, so weigh \
them. Then say which models made what, with the whole names of files. If nothing came out, say that it could not be \
done."""
RESULTS = "Before I answer, this is what was done for the request, as JSON: {{processes}}."
DO_TEXT = """The request [ {{input}} ] holds the task {{command}}. Do this {{task}} with the arguments {{args}} and \
write the result alone, as text."""
DEMOS = (
    (
        "Say aloud what is in /e1.jpg",
        '[{"task": "image-to-text", "id": 0, "dep": [-1], "args": {"image": "/e1.jpg"}}, '
        '{"task": "text-to-speech", "id": 1, "dep": [0], "args": {"text": "<GENERATED>-0"}}]',
    ),
    (
        "How many dogs are in /e2.png, and what are they doing?",
        '[{"task": "object-detection", "id": 0, "dep": [-1], "args": {"image": "/e2.png"}}, '
        '{"task": "visual-question-answering", "id": 1, "dep": [0], '
        '"args": {"image": "<GENERATED>-0", "text": "How many dogs are there and what are they doing?"}}]',
    ),
    (
        "What is said in /e3.wav? Draw it.",
        '[{"task": "automatic-speech-recognition", "id": 0, "dep": [-1], "args": {"audio": "/e3.wav"}}, '
        '{"task": "text-to-image", "id": 1, "dep": [0], "args": {"text": "<GENERATED>-0"}}]',
    ),
)
Said = dict[str, str]


def system(content: str) -> Said:
    return {"role": "system", "content": content}


def user(content: str) -> Said:
    return {"role": "user", "content": content}


def assistant(content: str) -> Said:
    return {"role": "assistant", "content": content}


def plan_messages(request: str, context: Sequence[Said], tasks: Sequence[str]) -> list[Said]:
    """Stage 1: the instruction, examples, the request with what was said before it."""
    listed = ", ".join(f'"{task}"' for task in tasks)
    shown = [each for asked, planned in DEMOS for each in (user(asked), assistant(planned))]
    return [system(PLAN.replace("{{tasks}}", listed)), *shown,
            user(fill(ASK_PLAN, {"input": request, "context": list(context)}))]  # fmt: skip


def choice_messages(request: str, command: Any, models: Any) -> list[Said]:
    """Stage 2: the request and the task as a turn before the question."""
    slots = {"input": request, "task": command, "metas": models}
    return [system(SELECT), user(fill("{{input}}", slots)), assistant(fill("{{task}}", slots)),
            user(fill(ASK_SELECT, slots))]  # fmt: skip


def answer_messages(request: str, results: Any) -> list[Said]:
    """Stage 4."""
    told = fill(RESULTS, {"processes": results})
    return [system(RESPOND), user(fill("{{input}}", {"input": request})), assistant(told), user(ASK_RESPOND)]


def planned_tasks(there: Sequence[str]) -> list[str]:
    """The tasks that a planner is told: the official ones that can be done, then other ones of the tools."""
    first = [task for task in OFFICIAL_TASKS if task in there]
    return [*first, *(task for task in there if task not in first and task in TASKS)]
