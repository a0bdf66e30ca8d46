"""Visual ChatGPT, AudioGPT and MM-REACT: how files come in, prompts, what is refused, conversations of turns."""

import numpy as np
import pytest

import polymodal as pm
from polymodal.agents.tools import Box, Tool
from polymodal.data.media import Audio
from polymodal.errors import ConfigError, PromptError
from polymodal.systems.mm_react.watchword import cleaned, read

PIXELS = np.full((300, 451, 3), 90, np.uint8)
PICTURE, SOUND = "image/a0918cdd.png", (np.zeros(800, np.float32), 8000)
BOX = Box(label="dog", left=10, top=20, right=110, bottom=90)


def tool(task: str, output: str, run, **inputs: str) -> Tool:
    return Tool(name=task, task=task, inputs=inputs, output=output, run=run)


TOOLS = (
    tool("image-to-text", "text", lambda image: f"a dog on {image.picture.size}", image="image"),
    tool("visual-question-answering", "text", lambda image, text: f"[{text}]", image="image", text="text"),
    tool("object-detection", "boxes", lambda image: (BOX,), image="image"),
    tool("optical-character-recognition", "text", lambda image: "NO\nENTRY\n", image="image"),
    tool("automatic-speech-recognition", "text", lambda audio: "hello there", audio="audio"),
    tool("text-to-speech", "audio", lambda text: Audio(SOUND), text="text"),
)


def act(name: str, given: str) -> str:
    return f" Yes\nAction: {name}\nAction Input: {given}"


def test_a_picture_is_fitted_described_and_named() -> None:
    outputs = [
        act("Answer Question About The Image", f"{PICTURE}, what, exactly?"),
        " No\nAI: See image/b.png.",
        " No\nAI: ok",
    ]
    agent = pm.agent("visual-chatgpt", planner=outputs, tools=TOOLS)
    reply = agent.ask(pm.image(PIXELS), "What is it?")
    prompt = agent.planner.asked[0][0]["content"]
    assert f"\nHuman: here is a picture named {PICTURE}. It is described as: a dog on (512, 320) " in prompt
    assert f"New input: What is it? {PICTURE}\n" in prompt and "> Detect the Give Object: " in prompt
    assert prompt.endswith("Thought: Do I need to use a tool? ") and "Text2Box" not in prompt
    assert [(step.tool, step.result, step.error) for step in reply.steps] == [
        ("Answer Question About The Image", "[what, exactly?]", ""),
        ("answer", "", "the answer names image/b.png, which was neither given nor made"),
    ]
    agent.ask("And now?")
    assert f"Human: What is it? {PICTURE}\nAI: See image/b.png." in agent.planner.asked[-1][0]["content"]


def test_visual_chatgpt_needs_descriptions_and_takes_your_wording(tmp_path) -> None:
    with pytest.raises(ConfigError, match="visual-chatgpt needs a tool for image-to-text"):
        pm.agent("visual-chatgpt", planner=[], tools=TOOLS[1:2])
    own = tmp_path / "prompt.txt"
    own.write_text("{tool_names}|{ai_prefix}|{input}|{agent_scratchpad}|{other}", encoding="utf-8")
    agent = pm.agent("visual-chatgpt", planner=["AI: hi"], tools=TOOLS[0], prompt=own)
    assert agent.ask("Hello {input}").text == "hi"
    assert agent.planner.asked[0][0]["content"] == (
        "Get Photo Description, Instruct Image Using Text, Edge Detection On Image|AI|Hello {input}||{other}"
    )


def test_audiogpt_hears_and_says() -> None:
    outputs = [
        act("Synthesize Speech Given the User Input Text", "hello, you"),
        act("Style Transfer", "x"),
        " No\nAI: done",
    ]
    agent = pm.agent("audiogpt", planner=outputs, tools=TOOLS)
    reply = agent.ask(pm.audio(SOUND), "Say it")
    assert "is described as: hello there" in agent.planner.asked[0][0]["content"]
    assert reply.steps[0].made.startswith("audio/") and len(reply.media["audio"]) == 1
    assert "there is no tool 'Style Transfer'; there are: Transcribe Speech, Synthesize Speech" in reply.steps[1].error
    assert [each.name for each in agent.tools] == [
        "Transcribe Speech", "Synthesize Speech Given the User Input Text", "Get Photo Description",
    ]  # fmt: skip


def test_mm_react_calls_experts_by_a_watchword() -> None:
    see = f"1. An image\nAssistant, what objects do you see in this image? /{PICTURE}"
    words = f"1. no new image\nAssistant, do OCR to this image to find the text /{PICTURE}"
    edit = f"Assistant, make it grey by photo editing /{PICTURE}"
    end = ["1. nothing new", "1. A dog\nTo summerize, a dog", "nothing more"]
    agent = pm.agent("mm-react", planner=[see, words, edit, *end], tools=TOOLS)
    reply = agent.ask(pm.image(PIXELS), "What is it?")
    first, second, third = reply.steps
    assert first.result == (
        f"/{PICTURE}\nImage description is: a dog on (451, 300).\n\nThis image contains objects and their "
        "descriptions, object tags\n\nList of object descriptions, and their locations in this image:\ndog 13 93\n\n"
        "List of object tags seen in this image:\ndog\n"
    )
    assert second.result.endswith("List of OCR texts (words) seen in this image:\nNO\nENTRY\n")
    assert third.result.startswith("Here is the edited image /image/") and len(reply.media["image"]) == 1
    assert reply.text.endswith("To summerize, a dog") and reply.finish_reason == "stop"
    prompts = [asked[0]["content"] for asked in agent.planner.asked]
    assert prompts[0].endswith(f"<|im_start|>Human\nWhat is it? /{PICTURE}\n<|im_sep|>AI\n")
    assert f"{see}\n<|im_sep|>Assistant\nAssistant:\n/{PICTURE}\nImage description" in prompts[1]


def test_mm_react_names_what_it_has_not_and_ends() -> None:
    ask, far = "Assistant, {}", "Assistant, what objects are in /tmp/x.png"
    outputs = [ask.format(f"do facial recognition on this image /{PICTURE}"), far,
               ask.format("Bing search for cats?"), far]  # fmt: skip
    reply = pm.agent("mm-react", planner=outputs, tools=TOOLS).ask(pm.image(PIXELS), "Who?")
    errors = [step.error for step in reply.steps]
    assert "no Celebrity Understanding here" in errors[0] and "there is no file '/tmp/x.png'" in errors[1]
    assert "no Bing Search here" in errors[2] and reply.finish_reason == "steps" and "gave no answer" in reply.text
    assert read("Assistant, help me") is None and read("Assistant, help me", 4) == [("<|im_end|>", "")]
    both = read("Assistant, do OCR to /a.png and /b.png")
    assert both == [("OCR Understanding", "/a.png"), ("OCR Understanding", "/b.png")], (
        "the official walk may not end here"
    )
    assert cleaned("a<|im_end|>\n\nIs there anything else you want?") == "a"


@pytest.mark.parametrize("system", ["visual-chatgpt", "audiogpt", "mm-react", "hugginggpt"])
def test_media_that_an_agent_does_not_take_are_refused(system: str) -> None:
    agent = pm.agent(system, planner=[], tools=TOOLS)
    with pytest.raises(PromptError, match=f"{system}:tools takes text, .*; found video"):
        agent.ask(pm.video("clip.mp4"), "What?")
    with pytest.raises(PromptError, match="expected texts and media, found int"):
        agent.ask(3)
