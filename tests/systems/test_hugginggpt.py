"""HuggingGPT: its prompts byte for byte, plans that are wrong in part, choices, and what its planner is told."""

import json

import numpy as np
import pytest

import polymodal as pm
from polymodal.agents.graph import run_graph
from polymodal.agents.tools import Box, Tool
from polymodal.data.media import Audio
from polymodal.errors import ConfigError, PromptError
from polymodal.systems.hugginggpt import prompts
from polymodal.systems.hugginggpt.plan import MOST_TASKS, PlanError, choice, read, resolved, unfold

IMAGE = "image/a0918cdd.png"


def describe(name: str = "caption", said: str = "a cat") -> Tool:
    return Tool(name=name, task="image-to-text", inputs={"image": "image"}, output="text", run=lambda image: said,
                description=f"{name} says what is seen")  # fmt: skip


def tools() -> list[Tool]:
    box = Box(label="cat", left=1, top=2, right=9, bottom=9)
    both = {"image": "image", "text": "text"}
    return [
        describe(),
        Tool(name="detect", task="object-detection", inputs={"image": "image"}, output="boxes",
             run=lambda image: (box,)),
        Tool(name="ask", task="visual-question-answering", inputs=both, output="text",
             run=lambda image, text: f"[{text}]"),
        Tool(name="say", task="text-to-speech", inputs={"text": "text"}, output="audio",
             run=lambda text: Audio((np.zeros(100, np.float32), 8000))),
    ]  # fmt: skip


def row(id: int, task: str, **args: str) -> dict:
    return {"task": task, "id": id, "dep": [-1], "args": args}


def ask(*outputs: object, given=None):
    said = [each if isinstance(each, str) else json.dumps(each) for each in outputs]
    agent = pm.agent("hugginggpt", planner=said, tools=given or tools())
    return agent, agent.ask(pm.image(np.zeros((20, 30, 3), np.uint8)), "What is it?")


def test_the_prompts_are_these() -> None:
    agent, reply = ask("[]", "hello")
    first, second = agent.planner.asked
    assert (
        reply.text == "hello" and reply.steps == () and second == ({"role": "user", "content": f"What is it? {IMAGE}"},)
    )
    assert [each["role"] for each in first] == ["system", *["user", "assistant"] * 3, "user"]
    assert first[-1]["content"] == (
        f"What was said so far: [ [] ]. The request is {{ What is it? {IMAGE} }}. Mind what each task takes and makes, "
        "and what it waits for."
    )
    for name in ("image-to-text", "text-to-speech", "summarization", "canny-control"):
        assert f'"{name}"' in first[0]["content"]
    assert '"text-to-image"' not in first[0]["content"], "a task that no tool does"
    for _, planned in prompts.DEMOS:
        assert all(not task.wrong for task in read(planned))


def test_a_plan_runs_with_what_is_wrong_named() -> None:
    plan = [row(0, "image-to-text", image=IMAGE), row(1, "text-to-speech", text="<GENERATED>-0"),
            row(2, "object-detection", image=f"/{IMAGE}"),
            row(3, "visual-question-answering", image="<GENERATED>-2", text="how many?"),
            row(4, "image-to-text", image="http://a.b/c.png"), row(5, "text-to-video", text="x"),
            row(6, "image-to-text", image="<GENERATED>-7"), row(7, "image-to-text", image="<GENERATED>-6"),
            row(8, "image-to-text", image="<GENERATED>-1"), {"task": "image-to-text", "id": "nine"},
            row(10, "summarization", text="<GENERATED>-0"), row(11, "image-to-text", image=3)]  # fmt: skip
    agent, reply = ask(plan, "a summary", "An answer.")
    errors = [step.error for step in reply.steps]
    assert reply.text == "An answer." and len(reply.steps) == len(plan)
    assert errors[:4] == [""] * 4 and reply.steps[3].result == "[how many?]" and reply.steps[1].made.endswith(".wav")
    assert "there is no file 'http://a.b/c.png'" in errors[4] and "no tool for 'text-to-video'" in errors[5]
    assert errors[6] == "tasks 6 -> 7 -> 6 wait for each other in a circle" and "circle" in errors[7]
    assert reply.steps[8].error == "task 8: <GENERATED>-1 names nothing that was made"
    assert "id: expected a whole number" in errors[9] and "image: expected a text, found 3" in errors[11]
    assert reply.steps[10].result == "a summary" and reply.steps[10].model == "planner"
    told = agent.planner.asked[-1][2]["content"]
    assert "'generated text'" not in told and "a cat" in told and "circle" in told
    assert [len(reply.media[kind]) for kind in ("image", "audio")] == [1, 1]


def test_plans_that_cannot_be_read_are_answered_by_the_planner_itself() -> None:
    for output in (
        "I cannot.",
        "{}",
        "[1]",
        '[{"task"',
        json.dumps([row(i, "x", text="y") for i in range(MOST_TASKS + 1)]),
    ):
        _, reply = ask(output, "just words")
        assert reply.text == "just words" and reply.finish_reason == "unreadable" and reply.steps[0].error
    _, reply = ask([row(0, "translation", text="x")], "words")
    assert reply.text == "words" and reply.steps == ()


def test_a_model_is_chosen_among_several() -> None:
    several = [describe("one", "first"), describe("two", "second")]
    plan = [row(0, "image-to-text", image=IMAGE)]
    agent, reply = ask(plan, '{"id": "two", "reason": "better"}', "done", given=several)
    assert reply.steps[0].result == "second" and reply.steps[0].thought == "better"
    asked = agent.planner.asked[1][-1]["content"]
    assert "{'id': 'one', 'inference endpoint': ['local'], 'description': 'one says what is seen'}" in asked
    _, reply = ask(plan, '{"id": "three", "reason": "?"}', "done", given=several)
    assert reply.steps[0].error == "task 0: the planner chose 'three'; there are one, two"
    _, reply = ask(plan, "the first, please", "done", given=several)
    assert "expected {" in reply.steps[0].error and reply.text == "done"
    assert choice("{'id': 'a', 'reason': 'b'}") == ("a", "b")


def test_ids_twice_many_parts_and_placeholders_without_a_number() -> None:
    same = read(json.dumps([row(1, "a", text="x"), row(1, "b", text="y"), row(2, "c", text="<GENERATED>-1")]))
    assert [bool(task.wrong) for task in same] == [False, True, True] and "the same id" in same[1].wrong
    parts = read(json.dumps([row(0, "a", image="x"), row(1, "a", image="y"),
                             row(2, "b", image="<GENERATED>-0,<GENERATED>-1")]))  # fmt: skip
    assert [(task.id, task.dep) for task in parts] == [(0, ()), (1, ()), (2, (0,)), (3, (1,))]
    assert "a placeholder must be" in read(json.dumps([row(0, "a", text="<GENERATED>")]))[0].wrong
    with pytest.raises(PlanError, match="unfolds into more than"):
        unfold([row(0, "a", image=",".join(["<GENERATED>-0"] * 200))])
    found = run_graph({task.id: task.dep for task in parts}, lambda id: id)
    assert all(not each.error for each in found.values())
    given = {0: {"image": "x"}, 1: {"image": "y"}}
    assert resolved(parts[2], {0: {}, 1: {}}, given) == {"image": "x"}, "a task that made none hands on its own"


def test_what_was_said_is_the_context_and_wrong_requests_are_refused() -> None:
    agent = pm.agent("hugginggpt", planner=["[]", "Hi.", "[]", "Yes."], tools=tools())
    agent.ask("Hello")
    agent.ask("And?")
    assert "'content': 'Hello'}, {'role': 'assistant', 'content': 'Hi.'}" in agent.planner.asked[2][-1]["content"]
    with pytest.raises(PromptError, match="the request is empty"):
        agent.ask(pm.image(np.zeros((9, 9, 3), np.uint8)), " ")
    with pytest.raises(ConfigError, match="give it no prompt file"):
        pm.agent("hugginggpt", planner=[], tools=tools(), prompt="README.md")


def test_a_planner_that_fails_leaves_what_was_done() -> None:
    plan = [row(0, "image-to-text", image=IMAGE), row(1, "translation", text="<GENERATED>-0")]
    _, reply = ask(plan)
    assert reply.finish_reason == "planner" and "has 1 outputs" in reply.text and reply.steps[0].result == "a cat"
    assert "task 1: the scripted planner has 1 outputs" in reply.steps[1].error and reply.steps[2].tool == "planner"
