"""What a ViperGPT program sees: `ImagePatch`, `VideoSegment` and the functions beside them (cvlab-columbia/viper at
09fe346).

    patch.find("dog")         -> detector's boxes -> patches         patch.simple_query(q)        -> a question
    patch.best_text_match(l)  -> matching, or classes                patch.compute_depth()        -> a median
    llm_query(q)              -> the planner itself

Traps: y grows upward here, so `lower` is smaller than `upper`, while pictures have their rows from the top; `crop` and
what `find` gives are 10 pixels larger on each side; a patch's borders are those in the original picture, but what
`crop` and `ImagePatch(...)` are given counts from the patch's own corner.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from polymodal.agents.interpreter.errors import ProgramError
from polymodal.agents.interpreter.values import Exposed
from polymodal.agents.tools import Toolbox, ToolError
from polymodal.data.media import Image
from polymodal.systems.vipergpt.numbers import word_to_num

MARGIN = 10
MATCH = 0.6  # of X-VLM's score, `verify_property.thresh_xvlm`
FRAMES = 30  # most frames of a video


class Models:
    """The tools behind the patches.  ask(question) -> the language model's answer.  used: (method, argument,
    result)."""

    def __init__(self, box: Toolbox, ask: Callable[[str], str], used: Callable[[str, str, str, str], None]) -> None:
        self._box, self.ask, self._used = box, ask, used

    def has(self, task: str) -> bool:
        return bool(self._box.of(task))

    def call(self, method: str, tasks: Sequence[str], told: str, arguments: Mapping[str, Any]) -> Any:
        """The result of the first tool there is for one of the tasks.  Raises ToolError where there is none."""
        tool = self._box.first(*tasks)
        if tool is None:
            raise ToolError(f"{method} needs a tool for {' or '.join(tasks)}; none was given")
        taken = {name: value for name, value in arguments.items() if name in tool.inputs}
        found = tool.call(taken)
        self._used(method, told, str(found)[:500], tool.model or tool.name)
        return found


class Picture(Exposed):
    """Pixels, which a program only hands on."""

    def __init__(self, image: Image) -> None:
        self.image = image

    def __repr__(self) -> str:
        return "Picture"


class ImagePatch(Exposed):
    """A rectangle of a picture.  left, lower, right, upper: its borders in the original, y upward."""

    shown = frozenset((
        "cropped_image", "left", "lower", "right", "upper", "width", "height", "horizontal_center", "vertical_center",
        "find", "exists", "verify_property", "best_text_match", "simple_query", "compute_depth", "crop",
        "overlaps_with", "llm_query",
    ))  # fmt: skip

    def __init__(
        self, models: Models, picture: Image, borders: Sequence[int] | None = None, parent: Any = None
    ) -> None:
        """borders: left, lower, right, upper, counted from the corner of `picture`."""
        self.models, self.parent = models, parent
        pixels, corner = picture.picture, (0, 0) if parent is None else (parent.left, parent.lower)
        if borders is None:
            borders = (0, 0, pixels.width, pixels.height)
            self.picture = picture
        else:
            left, lower, right, upper = _inside(borders, pixels.size)
            self.picture = Image(pixels.crop((left, pixels.height - upper, right, pixels.height - lower)))
        self.left, self.lower = borders[0] + corner[0], borders[1] + corner[1]
        self.right, self.upper = borders[2] + corner[0], borders[3] + corner[1]
        self.width, self.height = self.picture.picture.size

    @property
    def cropped_image(self) -> Picture:
        return Picture(self.picture)

    @property
    def horizontal_center(self) -> float:
        return (self.left + self.right) / 2

    @property
    def vertical_center(self) -> float:
        return (self.lower + self.upper) / 2

    @property
    def original(self) -> ImagePatch:
        return self if self.parent is None else self.parent.original

    def __repr__(self) -> str:
        return f"ImagePatch({self.left}, {self.lower}, {self.right}, {self.upper})"

    def find(self, object_name: str) -> list[ImagePatch]:
        """Patches of what is called so; "object" stands for everything."""
        name = _word(object_name, "find")
        anything = name in ("object", "objects")
        tasks = ("object-detection",) if anything else ("zero-shot-object-detection", "object-detection")
        found = self.models.call("find", tasks, name, {"image": self.picture, "text": name})
        names = found if anything or self.models.has("zero-shot-object-detection") else _called(found, name)
        height = self.height
        return [self.crop(box.left, height - box.bottom, box.right, height - box.top) for box in names]

    def exists(self, object_name: str) -> bool:
        """Whether it is found, and a question about each patch agrees; a number is looked for as writing."""
        name = _word(object_name, "exists")
        if name.isdigit() or name.lower().startswith("number"):
            wanted = word_to_num(name.lower().replace("number", "").strip())
            return word_to_num(self.simple_query("What number is written in the image (in digits)?")) == wanted
        return any("yes" in patch.simple_query(f"Is this a {name}?").lower() for patch in self.find(name))

    def verify_property(self, object_name: str, attribute: str) -> bool:
        """By a score of picture and words where there is one, else by a question."""
        words = f"{_word(attribute, 'verify_property')} {_word(object_name, 'verify_property')}"
        if self.models.has("image-text-matching"):
            return self._score("verify_property", words) > MATCH
        return "yes" in self.simple_query(f"Is the {object_name} {attribute}?").lower()

    def _score(self, method: str, words: str) -> float:
        return float(self.models.call(method, ("image-text-matching",), words, {"image": self.picture, "text": words}))

    def _shares(self, method: str, options: Sequence[str]) -> list[float]:
        """How well each text fits the picture."""
        if self.models.has("image-text-matching"):
            return [self._score(method, option) for option in options]
        given = {"image": self.picture, "labels": tuple(options)}
        named = dict(self.models.call(method, ("zero-shot-image-classification",), ", ".join(options), given))
        return [float(named.get(option, 0.0)) for option in options]

    def best_text_match(self, option_list: list[str], prefix: str | None = None) -> str:
        options = [_word(option, "best_text_match") for option in option_list]
        if not options:
            raise ProgramError("best_text_match: expected at least one option, found none")
        shares = self._shares(
            "best_text_match", options if prefix is None else [f"{prefix} {each}" for each in options]
        )
        return options[int(np.argmax(shares))]

    def simple_query(self, question: str = "What is this?") -> str:
        question = _word(question, "simple_query")
        found = self.models.call("simple_query", ("visual-question-answering",), question,
                                 {"image": self.picture, "text": question})  # fmt: skip
        return str(found)

    def compute_depth(self) -> float:
        """The median of this part of the original's depth picture, as the tool writes it."""
        whole = self.original
        depth = self.models.call("compute_depth", ("depth-estimation",), str(self), {"image": whole.picture}).picture
        values = np.asarray(depth.convert("L").resize((whole.width, whole.height)), dtype=np.float64)
        part = values[max(whole.height - self.upper, 0) : whole.height - self.lower, max(self.left, 0) : self.right]
        if not part.size:
            raise ProgramError(f"{self}: no part of it lies in the picture")
        return float(np.sort(part, axis=None)[(part.size - 1) // 2])  # torch's median: the lower of the middle two

    def crop(self, left: float, lower: float, right: float, upper: float) -> ImagePatch:
        """A part of this patch and 10 pixels around it."""
        left, lower = max(0, int(left) - MARGIN), max(0, int(lower) - MARGIN)
        right, upper = min(self.width, int(right) + MARGIN), min(self.height, int(upper) + MARGIN)
        return ImagePatch(self.models, self.picture, (left, lower, right, upper), self)

    def overlaps_with(self, left: float, lower: float, right: float, upper: float) -> bool:
        return bool(self.left <= right and self.right >= left and self.lower <= upper and self.upper >= lower)

    def llm_query(self, question: str, long_answer: bool = True) -> str:
        return llm_query(self.models, question, long_answer)


def _inside(borders: Sequence[int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Borders in a picture.  Raises ProgramError for those without an area in it."""
    left, lower, right, upper = (int(each) for each in borders)
    if not (0 <= left < right <= size[0] and 0 <= lower < upper <= size[1]):
        raise ProgramError(
            f"ImagePatch({left}, {lower}, {right}, {upper}): it has no area in a picture of {size[0]} x {size[1]}"
        )
    return left, lower, right, upper


def _word(value: Any, method: str) -> str:
    if not isinstance(value, str):
        raise ProgramError(f"{method}: expected a text, found {type(value).__name__}")
    return value


def _called(boxes: Sequence[Any], name: str) -> list[Any]:
    """The boxes of a detector of fixed names that are called so, or by its singular; "person" and "people" are one."""
    wanted = {name.lower(), name.lower().removesuffix("s")}
    wanted |= {"person", "people"} if wanted & {"person", "people"} else set()
    return [box for box in boxes if box.label.lower() in wanted or any(w in box.label.lower().split() for w in wanted)]


class VideoSegment(Exposed):
    """Frames from `start` to `end` of a video."""

    shown = frozenset(("start", "end", "num_frames", "frame_from_index", "trim", "select_answer", "frame_iterator"))

    def __init__(self, models: Models, frames: Sequence[Image], start: int = 0) -> None:
        if not frames:
            raise ProgramError("VideoSegment: it has no frames")
        self.models, self.frames = models, frames
        self.start, self.end, self.num_frames = start, start + len(frames), len(frames)

    def __repr__(self) -> str:
        return f"VideoSegment({self.start}, {self.end})"

    def frame_from_index(self, index: int) -> ImagePatch:
        """That frame, the last one behind the end."""
        return ImagePatch(self.models, self.frames[index if index < self.num_frames else -1])

    def trim(self, start: int | None = None, end: int | None = None) -> VideoSegment:
        first = 0 if start is None else max(int(start), 0)
        last = self.num_frames if end is None else min(int(end), self.num_frames)
        return VideoSegment(self.models, self.frames[first:last], self.start + first)

    def frame_iterator(self) -> list[ImagePatch]:
        return [ImagePatch(self.models, frame) for frame in self.frames]

    def select_answer(self, info: dict[str, Any], question: str, options: Any = None) -> str:
        """What the language model makes of what a program found out."""
        told = "\n".join(f"- {name}: {value}" for name, value in info.items())
        asked = f"Known about a video:\n{told}\nQuestion: {question}\n"
        asked += f"Answer with one of: {', '.join(map(str, options))}\n" if options else ""
        return self.models.ask(f"{asked}Answer:").strip()


def llm_query(models: Models, question: str, long_answer: bool = True) -> str:
    """The language model's answer; a short one is asked for as the paper does."""
    question = _word(question, "llm_query")
    return models.ask(question if long_answer else f"Q: {question} Be very concise, no ranges, no doubt.\nA:").strip()


def best_image_match(list_patches: list[ImagePatch], content: list[str], return_index: bool = False) -> Any:
    """The patch that fits these texts best, on average."""
    if not list_patches:
        return None
    scores = [sum(patch._shares("best_image_match", content)) for patch in list_patches]
    best = int(np.argmax(scores))
    return best if return_index else list_patches[best]


def distance(patch_a: Any, patch_b: Any) -> float:
    """Between the borders of two patches; of those that overlap, minus their intersection over union."""
    if not (isinstance(patch_a, ImagePatch) and isinstance(patch_b, ImagePatch)):
        return abs(patch_a - patch_b)
    a, b = patch_a, patch_b
    across = max(0, a.left - b.right, b.left - a.right)
    along = max(0, a.lower - b.upper, b.lower - a.upper)
    if across or along:
        return math.hypot(across, along)
    shared = (min(a.right, b.right) - max(a.left, b.left)) * (min(a.upper, b.upper) - max(a.lower, b.lower))
    areas = sum((p.right - p.left) * (p.upper - p.lower) for p in (a, b))
    return -shared / (areas - shared)


def bool_to_yesno(bool_answer: Any) -> str:
    return "yes" if bool_answer else "no"
