"""A language model whose prompt sees itself in both directions (GLM, arXiv 2103.10360), with media in it.

    [context, all of it sees all of it] <sop> answer, token by token

Traps: what a prompt was computed to is no beginning of a longer one, so nothing is kept between turns, and the prompt
goes through the backbone in one piece.
"""

from __future__ import annotations

from polymodal.models.multimodal_lm import MultimodalLM


class PrefixLM(MultimodalLM):
    """A MultimodalLM whose backbone reads its prompt as a whole; see `backbones/chatglm.py`."""

    is_encoder_decoder = True
