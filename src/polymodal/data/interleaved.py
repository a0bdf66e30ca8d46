"""Templates for pictures in running text: one token around each picture, shared by pictures next to each other.

    "User: " picture picture "what?"  ->  "User:" <mark> picture <mark> picture <mark> "what?"        (IDEFICS)

Spaces at the border between words and a picture go, as the published processor strips each piece of text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from polymodal.data.messages import Message
from polymodal.data.template import Segment, Slot, Special, Template, Words


@dataclass(frozen=True, kw_only=True)
class SharedMarks:
    """`template`, with `mark` before, between and after the pictures of a run; called like a Template."""

    template: Template
    mark: Special

    def render(self, messages: Sequence[Message], *, ask: bool) -> tuple[Segment, ...]:
        """Segments of a conversation; raises PromptError as the template does."""
        made: list[Segment] = []
        inside = False  # the last segment was a mark behind a picture
        for segment in self.template.render(messages, ask=ask):
            if isinstance(segment, Slot):
                if made and not inside and isinstance(made[-1], Words):
                    made[-1] = replace(made[-1], text=made[-1].text.rstrip(" "))
                made += [segment, self.mark] if inside else [self.mark, segment, self.mark]
                inside = True
                continue
            if inside and isinstance(segment, Words):
                segment = replace(segment, text=segment.text.lstrip(" "))
            made.append(segment)
            inside = False
        return tuple(segment for segment in made if not isinstance(segment, Words) or segment.text)
