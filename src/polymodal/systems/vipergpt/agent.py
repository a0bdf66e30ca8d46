"""ViperGPT's way: the planner writes one program, the restricted interpreter runs it, what it returns is the answer.

    request -> prompt with the API -> planner -> `def execute_command(image): ...` -> interpreter -> text or patches

The prompt is in our words; the official one (CC BY-NC 4.0) can be read from a file of yours: INSERT_QUERY_HERE and
INSERT_TYPE_HERE in it are filled as there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

from polymodal.agents.files import Files
from polymodal.agents.interpreter.evaluate import run
from polymodal.agents.interpreter.meter import ProgramLimits
from polymodal.agents.offers import offered, offers
from polymodal.agents.record import Answer, Setup, Step
from polymodal.agents.tools import Tool, ToolError
from polymodal.data.media import Image, Video
from polymodal.systems.vipergpt.numbers import coerce_to_numeric
from polymodal.systems.vipergpt.patches import (
    FRAMES,
    ImagePatch,
    Models,
    Picture,
    VideoSegment,
    best_image_match,
    bool_to_yesno,
    distance,
    llm_query,
)

ENTRY = "execute_command"
SYSTEM_MESSAGE = "Only answer with a function starting def execute_command."
STOP = ("\n\n",)
OFFERS = offers(
    ("find", "zero-shot-object-detection object-detection", "patches of a named thing"),
    ("simple_query", "visual-question-answering", "a short answer about a patch"),
    ("best_text_match", "image-text-matching zero-shot-image-classification", "the text that fits a patch best"),
    ("compute_depth", "depth-estimation", "how near a patch is"),
)
PROMPT = """You write one Python function that answers a query about a picture or a video. It may use these and \
nothing else:

class ImagePatch:  # a rectangle of a picture; y grows upward, so lower < upper
    left: int; lower: int; right: int; upper: int; width: int; height: int
    horizontal_center: float; vertical_center: float
    def find(self, object_name: str) -> List[ImagePatch]: ...  # every such thing in this patch
    def exists(self, object_name: str) -> bool: ...
    def verify_property(self, object_name: str, attribute: str) -> bool: ...  # "car", "red"
    def best_text_match(self, option_list: List[str], prefix: str = None) -> str: ...
    def simple_query(self, question: str = "What is this?") -> str: ...  # a short answer about what is seen
    def compute_depth(self) -> float: ...
    def crop(self, left: int, lower: int, right: int, upper: int) -> ImagePatch: ...
    def overlaps_with(self, left: int, lower: int, right: int, upper: int) -> bool: ...
    def llm_query(self, question: str, long_answer: bool = True) -> str: ...  # knowledge that no picture holds

class VideoSegment:
    start: int; end: int; num_frames: int
    def frame_from_index(self, index: int) -> ImagePatch: ...
    def trim(self, start: int = None, end: int = None) -> VideoSegment: ...
    def frame_iterator(self) -> List[ImagePatch]: ...
    def select_answer(self, info: dict, question: str, options: List[str] = None) -> str: ...

def best_image_match(list_patches: List[ImagePatch], content: List[str], return_index: bool = False): ...
def distance(patch_a: ImagePatch, patch_b: ImagePatch) -> float: ...
def llm_query(question: str, long_answer: bool = True) -> str: ...
def bool_to_yesno(bool_answer: bool) -> str: ...
def coerce_to_numeric(string: str): ...

# How many mugs stand left of the lamp?
def execute_command(image) -> str:
    image_patch = ImagePatch(image)
    lamp = image_patch.find("lamp")[0]
    mugs = [mug for mug in image_patch.find("mug") if mug.horizontal_center < lamp.horizontal_center]
    return str(len(mugs))

Plain Python, math and sorting are there; classes, imports, try and names with an underscore in front are not.

Query: INSERT_QUERY_HERE
def execute_command(INSERT_TYPE_HERE):"""


def program_of(output: str, entry: str = ENTRY, argument: str = "image") -> str:
    """The program in an output: from a fence, with what stands before it left out; a body alone gets its first line."""
    fence = re.search(r"```(?:python|py)?\n(.*?)(?:```|\Z)", output, re.DOTALL)
    source = fence[1] if fence else output
    start = re.search(rf"^def {entry}\b", source, re.MULTILINE)
    if start is None:
        return f"def {entry}({argument}):" + (source if source.startswith(("\n", " ")) else f"\n{source}")
    helpers = re.search(r"^(?:def|import|from)\b", source, re.MULTILINE)
    return source[min(start.start(), helpers.start() if helpers else start.start()) :]


class ViperAgent:
    """Each request is answered by a program of its own; nothing is remembered."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.tools: Sequence[Tool] = offered(OFFERS, setup.tools)
        self._prompt = setup.prompt.strip() or PROMPT

    def ask(self, text: str, given: Sequence[str], files: Files) -> Answer:
        steps: list[Step] = []
        before = len(files.made)
        kind, media = _subject(given, files)
        prompt = self._prompt.replace("INSERT_QUERY_HERE", text).replace("INSERT_TYPE_HERE", kind)
        said = [{"role": "system", "content": SYSTEM_MESSAGE}, {"role": "user", "content": prompt}]
        source = program_of(self.setup.planner(said, STOP), argument=kind)
        begin = time.perf_counter()
        try:
            found = self._run(source, media, steps)
        except ToolError as problem:
            steps.append(Step(tool=ENTRY, arguments=source, error=str(problem), seconds=time.perf_counter() - begin))
            done = [f"{step.tool}({step.arguments}): {step.result}" for step in steps if step.result]
            so_far = "; ".join(done) or "none"
            return Answer(text=f"(the program gave no answer: {problem}; results so far: {so_far})", steps=tuple(steps),
                          finish="unreadable")  # fmt: skip
        words = told(found, files, given[0] if given else "")
        steps.append(Step(tool=ENTRY, arguments=source, result=words, seconds=time.perf_counter() - begin))
        return Answer(text=words, steps=tuple(steps), made=tuple(files.made[before:]))

    def _run(self, source: str, media: Any, steps: list[Step]) -> Any:
        def used(method: str, argument: str, result: str, model: str) -> None:
            steps.append(Step(tool=method, arguments=argument, result=result, model=model))

        def ask(question: str) -> str:
            answer = self.setup.planner([{"role": "user", "content": question}])
            used("llm_query", question, answer.strip(), "planner")
            return answer

        models = Models(self.setup.tools, ask, used)
        limits = ProgramLimits(seconds=self.setup.limits.seconds)
        subject = VideoSegment(models, _frames(media)) if isinstance(media, Video) else Picture(media)
        return run(source, ENTRY, (subject,), api(models), limits)


def api(models: Models) -> dict[str, Any]:
    """The names of a program beside Python's own."""

    def patch(image: Any, left: Any = None, lower: Any = None, right: Any = None, upper: Any = None) -> ImagePatch:
        borders = (left, lower, right, upper)
        inner = image.picture if isinstance(image, ImagePatch) else getattr(image, "image", None)
        if not isinstance(inner, Image):
            raise ToolError(f"ImagePatch: expected a picture, found {type(image).__name__}")
        return ImagePatch(models, inner, None if None in borders else [int(each) for each in borders])

    def segment(video: Any, start: Any = None, end: Any = None) -> VideoSegment:
        if not isinstance(video, VideoSegment):
            raise ToolError(f"VideoSegment: expected a video, found {type(video).__name__}")
        return video.trim(start, end)

    return {
        "ImagePatch": patch, "VideoSegment": segment, "best_image_match": best_image_match, "distance": distance,
        "llm_query": lambda question, long_answer=True: llm_query(models, question, long_answer),
        "bool_to_yesno": bool_to_yesno, "coerce_to_numeric": coerce_to_numeric,
    }  # fmt: skip


def _subject(given: Sequence[str], files: Files) -> tuple[str, Any]:
    """("image" or "video", the file).  Raises ToolError for more than one, or none."""
    if len(given) != 1:
        raise ToolError(f"vipergpt answers about one picture or one video; found {len(given)} files")
    for kind in ("image", "video"):
        try:
            return kind, files.open(given[0], kind)
        except ToolError:
            continue
    raise ToolError(f"vipergpt answers about one picture or one video; found {given[0]}")


def _frames(video: Video) -> list[Image]:
    return [Image(frame) for frame in video.clip(frames=FRAMES).frames]


def told(value: Any, files: Files, of: str) -> str:
    """What a program gave, in words; patches become files."""
    if isinstance(value, ImagePatch):
        return files.keep(value.picture, "patch", of)
    if isinstance(value, bool):
        return bool_to_yesno(value)
    if isinstance(value, list | tuple | set):
        return ", ".join(told(each, files, of) for each in value) or "nothing"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {told(each, files, of)}" for name, each in value.items())
    return "" if value is None else str(value)
