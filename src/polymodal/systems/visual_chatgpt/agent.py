"""Visual ChatGPT's conversation: its tools, how a picture comes in, and the words around the protocol.

The names of tools, the form of file names, the size of pictures and the protocol are those of microsoft/TaskMatrix
(MIT, read at 4b7664f, visual_chatgpt.py); descriptions and the words around them are ours.  A prompt file of yours
holds {tools}, {tool_names}, {ai_prefix}, {chat_history}, {input} and {agent_scratchpad}.
"""

from __future__ import annotations

from functools import partial

from polymodal.agents.files import Files
from polymodal.agents.offers import offered, offers
from polymodal.agents.pictures import scaled
from polymodal.agents.react import ReactAgent, Wording, with_inputs
from polymodal.agents.record import Setup
from polymodal.errors import ConfigError

SIDE, MULTIPLE = 512, 64
MISSING = (
    "Extend An Image",
    "Segment the given object",
    "Remove Something From The Photo",
    "Replace Something From The Photo",
    "Remove the background",
)
"""Official tools for which nothing stands in: no task of a local tool is theirs."""
OFFERS = offers(
    ("Get Photo Description", "image-to-text", "useful to learn what is in a picture"),
    (
        "Answer Question About The Image",
        "visual-question-answering",
        "useful for a question about a picture, as what colour or how many",
    ),
    ("Generate Image From User Input Text", "text-to-image", "useful to draw what a text says"),
    ("Instruct Image Using Text", "image-to-image", "useful to change a picture as a text says"),
    ("Edge Detection On Image", "canny-control", "useful for the edges of a picture"),
    ("Generate Image Condition On Canny Image", "canny-text-to-image", "draws a text, keeping to the edges"),
    ("Line Detection On Image", "mlsd-control", "useful for the straight lines of a picture"),
    ("Generate Image Condition On Line Image", "mlsd-text-to-image", "draws a text, keeping to the lines"),
    ("Hed Detection On Image", "hed-control", "useful for the soft borders in a picture"),
    (
        "Generate Image Condition On Soft Hed Boundary Image",
        "hed-text-to-image",
        "draws a text, keeping to the soft borders",
    ),
    ("Sketch Detection On Image", "scribble-control", "useful for a sketch of a picture"),
    ("Generate Image Condition On Sketch Image", "scribble-text-to-image", "draws a text, keeping to the sketch"),
    ("Pose Detection On Image", "openpose-control", "useful for how people in a picture stand"),
    ("Generate Image Condition On Pose Image", "openpose-text-to-image", "draws a text, keeping to the pose"),
    ("Segment the Image", "image-segmentation", "useful to part a picture into its things"),
    ("Generate Image Condition On Segmentations", "seg-text-to-image", "draws a text, keeping to the parts"),
    ("Predict Depth On Image", "depth-estimation", "useful for how far things in a picture are"),
    ("Generate Image Condition On Depth", "depth-text-to-image", "draws a text, keeping to the depth"),
    ("Predict Normal Map On Image", "normal-control", "useful for which way surfaces look"),
    ("Generate Image Condition On Normal Map", "normal-text-to-image", "draws a text, keeping to the surfaces"),
    (
        "Detect the Give Object",
        "zero-shot-object-detection object-detection",
        "useful to learn where things are in a picture",
    ),
    *((name, "", "") for name in MISSING),
)
PREFIX = """Visual ChatGPT is a language model that helps with pictures. It cannot see them; it has tools that look \
at them, draw and change them. A picture is known by its file name, as "image/xxx.png". Visual ChatGPT uses only \
file names that the human or a tool gave, never others, and believes what tools observe. It uses several tools in a \
row where that is needed, and names the file of the last picture that was made. A description that comes with a \
picture does not replace a tool.


TOOLS:
------

Visual ChatGPT has these tools:"""
SUFFIX = """Names of files are written exactly as they were given.

Begin!

Previous conversation history:
{chat_history}

New input: {input}
The human sees neither thoughts nor observations, so the answer repeats what matters of them.
Thought: Do I need to use a tool? {agent_scratchpad}"""


def begin(setup: Setup) -> ReactAgent:
    """A conversation.  Raises ConfigError without a tool that describes pictures, which it cannot do without."""
    tools = with_inputs(offered(OFFERS, setup.tools))
    describe = setup.tools.first("image-to-text")
    if describe is None:
        raise ConfigError(
            "visual-chatgpt needs a tool for image-to-text, to describe what is given; add one, as tools=['mini']"
        )

    def introduce(name: str, files: Files) -> str:
        said = describe.call({"image": files.open(name, "image")})
        return (f"\nHuman: here is a picture named {name}. It is described as: {said} This helps you; use tools "
                'all the same. If you understand, say "Received". \nAI: Received.  ')  # fmt: skip

    wording = Wording(prefix=PREFIX, suffix=SUFFIX, whole=setup.prompt)
    return ReactAgent(planner=setup.planner, tools=tools, wording=wording, limits=setup.limits, introduce=introduce,
                      prepare=partial(scaled, side=SIDE, multiple=MULTIPLE))  # fmt: skip
