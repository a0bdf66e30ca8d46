"""AudioGPT's conversation: Visual ChatGPT's protocol over tools for speech, sound and music.

The names of tools are spelled as in AIGC-Audio/AudioGPT (read at a674543, audio-chatgpt.py; its LICENSE file is empty,
so that nothing but names and the protocol is taken).  A prompt file of yours is filled as Visual ChatGPT's.
"""

from __future__ import annotations

from functools import partial

from polymodal.agents.files import Files
from polymodal.agents.offers import offered, offers
from polymodal.agents.pictures import scaled
from polymodal.agents.react import ReactAgent, Wording, with_inputs
from polymodal.agents.record import Setup

SIDE = 512
MISSING = (
    "Style Transfer",
    "Generate Singing Voice From User Input Text, Note and Duration Sequence",
    "Speech Separation In Single-Channel",
    "Audio Inpainting",
    "Generate a talking human portrait video given a input Audio",
    "Sythesize Binaural Audio From A Mono Audio Input",
    "Extract Sound Event From Mixture Audio Based On Language Description",
    "Target Sound Detection",
)
"""Official tools for which nothing stands in: no task of a local tool is theirs."""
OFFERS = offers(
    ("Transcribe Speech", "automatic-speech-recognition", "useful to learn what is said in a recording"),
    (
        "Synthesize Speech Given the User Input Text",
        "text-to-speech",
        "useful to say a text aloud; it gives a sound file",
    ),
    ("Generate Text From The Audio", "audio-captioning", "useful to learn what is heard"),
    ("Generate Audio From User Input Text", "text-to-audio", "useful to make the sound that a text says"),
    ("Detect The Sound Event From The Audio", "audio-classification", "useful to learn which sounds a recording has"),
    ("Speech Enhancement In Single-Channel", "audio-to-audio", "useful to make speech clearer"),
    ("Generate Audio From The Image", "image-to-audio", "useful for the sound of a picture"),
    ("Get Photo Description", "image-to-text", "useful to learn what is in a picture"),
    ("Generate Image From User Input Text", "text-to-image", "useful to draw what a text says"),
    *((name, "", "") for name in MISSING),
)
PREFIX = """AudioGPT is a language model that helps with speech, sound and music. It cannot hear; it has tools that \
listen to recordings and make them. A recording is known by its file name, as "audio/xxx.wav", a picture by \
"image/xxx.png". AudioGPT uses only file names that the human or a tool gave, never others, and believes what tools \
observe. It uses several tools in a row where that is needed, and names the file of the last sound that was made.

TOOLS:
------

AudioGPT has these tools:"""
SUFFIX = """Names of files are written exactly as they were given.

Begin!

Previous conversation history:
{chat_history}
New input: {input}
Thought: Do I need to use a tool? {agent_scratchpad}"""


def begin(setup: Setup) -> ReactAgent:
    """A conversation.  New files are described by what tools there are: sound by a caption, else by what is said in
    it."""
    tools = with_inputs(offered(OFFERS, setup.tools))
    hear = setup.tools.first("audio-captioning", "automatic-speech-recognition")
    see = setup.tools.first("image-to-text")

    def introduce(name: str, files: Files) -> str:
        kind = name.partition("/")[0]
        tool = see if kind == "image" else hear
        said = "" if tool is None else tool.call({kind: files.open(name, kind)})
        about = f" It is described as: {said}" if said else ""
        called = "picture" if kind == "image" else "recording"
        return (f'\nHuman: here is a {called} named {name}.{about} Use tools on it. If you understand, say "Received". '
                "\nAI: Received.  ")  # fmt: skip

    wording = Wording(prefix=PREFIX, suffix=SUFFIX, whole=setup.prompt)
    return ReactAgent(planner=setup.planner, tools=tools, wording=wording, limits=setup.limits, introduce=introduce,
                      prepare=partial(scaled, side=SIDE))  # fmt: skip
