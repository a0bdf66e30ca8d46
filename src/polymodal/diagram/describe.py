"""Which function reads which model into a graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from polymodal.diagram import fusion_models, towers
from polymodal.diagram.from_parts import draw_agent, draw_parts
from polymodal.diagram.graph import Graph
from polymodal.diagram.language_models import draw_language_model
from polymodal.diagram.parameters import with_stage
from polymodal.diagram.sketch import Sketch
from polymodal.models.dual_encoder import DualEncoder
from polymodal.models.encoder_classifier import EncoderClassifier
from polymodal.models.fusion_classifier import FusionClassifier
from polymodal.models.fusion_encoder import FusionEncoder
from polymodal.models.joint_embedding import JointEmbedding
from polymodal.models.multimodal_encoder import MultimodalEncoder
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.models.qformer_retrieval import QFormerRetrieval
from polymodal.models.sequence_fusion import SequenceFusion
from polymodal.models.single_stream import SingleStream
from polymodal.models.vision_encoder_decoder import VisionEncoderDecoder
from polymodal.weights.build import build_empty

if TYPE_CHECKING:
    from polymodal.systems import System, Variant

DRAW: tuple[tuple[type, Callable[[Sketch, Any], None]], ...] = (
    (MultimodalLM, draw_language_model),
    (DualEncoder, towers.draw_dual_encoder),
    (JointEmbedding, towers.draw_joint_embedding),
    (EncoderClassifier, towers.draw_encoder_classifier),
    (QFormerRetrieval, towers.draw_qformer_retrieval),
    (FusionEncoder, fusion_models.draw_fusion_encoder),
    (FusionClassifier, fusion_models.draw_fusion_classifier),
    (VisionEncoderDecoder, fusion_models.draw_vision_encoder_decoder),
    (MultimodalEncoder, fusion_models.draw_multimodal_encoder),
    (SingleStream, fusion_models.draw_single_stream),
    (SequenceFusion, fusion_models.draw_sequence_fusion),
)


def describe(system: System, variant: Variant, stage: str | None = None) -> Graph:
    """The graph of a variant, built on the meta device.

    stage: coloured by what this stage of its recipe trains; where it has no such stage, a note says so.
    """
    module = build_empty(lambda: system.module(variant))
    sketch = Sketch(system, variant, module)
    draw = next((function for kind, function in DRAW if isinstance(module, kind)), None)
    if draw is not None:
        draw(sketch, module)
    elif system.is_agent:
        draw_agent(sketch)
    else:
        draw_parts(sketch)
    chosen = next((each for each in system.recipe if each.name == stage), None)
    if stage is not None and chosen is None:
        names = ", ".join(each.name for each in system.recipe) or "none"
        sketch.notes.append(f"No stage '{stage}' here; stages: {names}.")
    graph = sketch.finish()
    return graph if chosen is None else with_stage(graph, sketch.parameters, chosen, sketch.total)
