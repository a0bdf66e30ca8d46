"""mini: our own small model that answers about pictures and speech on a CPU the moment it is installed.

    picture -> 224 x 224 on white -> EfficientNet-Lite0 at five depths -> names connector: 12 words and 8 dense
            its central square -> the same network's ImageNet classifier ->|  features -> spliced at placeholders
            512 x 512 on black -> CenterNet, things of 80 kinds ---------->|  -> SmolLM2-135M-Instruct -> text  (type C)
    speech  -> Whisper tiny.en -> its words, as text of the conversation
               `mini:hears`: -> its encoder alone -> spoken connector -> embeddings spliced like a picture's
    picture, sentence -> vectors of one space (all-MiniLM-L6-v2), for `embed` and `classify`

Published weights are fetched from package registries; what we trained (the connectors and rank-8 adapters of SmolLM2)
ships in `assets/`.  Recipe: recipes/mini; numbers: docs/mini.md.
Traps: the adapters change what SmolLM2 says about anything, so a conversation without picture or recording is
answered by the bare model, which takes its own memory when the first one comes.  The adapters learned pictures in
front of questions; behind one, a picture gets a "yes" to whatever is asked, so the pictures of a message are moved.
"""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import torch

from polymodal.data.item_rules import SameCount
from polymodal.data.processor import Modality, Processor
from polymodal.data.tokenizer import Tokenizer
from polymodal.data.transforms import stack_views
from polymodal.models.multimodal_lm import MultimodalLM
from polymodal.pipelines.speech_as_features import SpeechAsFeatures
from polymodal.pipelines.speech_as_text import SpeechAsText, open_whisper
from polymodal.systems import LoadedModel, LoadOptions, System, Variant
from polymodal.systems.mini import components
from polymodal.systems.mini.drawing import parts
from polymodal.systems.mini.finder import Finder
from polymodal.systems.mini.recipe import RECIPE
from polymodal.systems.mini.sentence_space import MiniLM, SentenceSpace
from polymodal.weights.fetch import fetch_all
from polymodal.weights.load import open_source
from polymodal.weights.packed import unpack


def load(variant: Variant, options: LoadOptions, apart: bool = False) -> LoadedModel:
    """Build, fill from the published files and from ours, merge the adapters, and join what hears and compares.

    apart: to train on: adapters, where our file has any, stay beside the weights, and "Yes" is as published."""
    source = partial(open_source, progress=options.progress, offline=options.offline)
    place: dict[str, Any] = {"device": options.device, "dtype": getattr(torch, options.dtype)}
    language, trained = source(components.SMOLLM2_135M_GGUF), source(components.TRAINED)
    ours, tokenizer = unpack(trained), Tokenizer.from_gguf(language.metadata)
    fetch_all((components.CENTERNET_VALUES, components.CENTERNET_SOURCE), options.progress, options.offline)
    detector = source(components.CENTERNET_SOURCE)
    encoder, connector = components.load_vision(source(components.LITE0_SOURCE), detector, ours)
    backbone = components.load_lm(language, components.adapters_in(ours), apart=apart)
    if not apart:
        components.add_yes_bias(backbone, tokenizer, ours[components.YES])
    if options.quantise is not None:  # the head copies the embeddings, with the row that was just changed
        backbone.quantise(options.quantise)
    names = json.loads(trained.metadata["names"])
    components.set_vocabulary(connector, names, tokenizer, backbone.embed_tokens.weight)
    image = Modality(
        name="image",
        placeholder=components.PLACEHOLDER,
        transform=components.VIEWS,
        collate=stack_views,
        before=components.BEFORE,
        after=components.AFTER,
        tokens=SameCount(components.CONNECTOR.tokens(components.ENCODER.tokens)),
    )
    hearing: SpeechAsText | SpeechAsFeatures
    if variant.name == components.HEARS:
        hears = components.load_audio(
            source(components.TINY_EN_WEIGHTS), source(components.TRAINED_HEARS), backbone.embed_tokens.weight
        )
        model = components.join(encoder, connector, backbone, hears).to(**place).eval()
        hearing = SpeechAsFeatures(model, tokenizer, components.WHISPER["tiny.en"].mel)
        modalities: tuple[Modality, ...] = (image, hearing.modality(components.SPOKEN_PLACEHOLDER))
    else:
        model = components.join(encoder, connector, backbone, None).to(**place).eval()
        hearing = SpeechAsText(
            partial(open_whisper, "tiny.en", components.TINY_EN_WEIGHTS, components.ENGLISH_RANKS, source)
        )
        modalities = (image,)
    processor = Processor(
        tokenizer=tokenizer,
        template=components.TEMPLATE,
        modalities=modalities,
        max_length=components.BACKBONE.max_length,
        rewrite=partial(components.in_learned_order, hearing.rewrite),
    )
    space = SentenceSpace(
        encoder.grid, connector, components.IMAGE, MiniLM(components.MINILM, components.MINILM_TOKENIZER, source)
    )
    return LoadedModel(
        model=model,
        processor=processor,
        text=lambda: MultimodalLM({}, {}, components.load_lm(language, {}, options.quantise).to(**place), {}),
        transcribe=hearing.text,
        transcribe_windows=hearing.windows if isinstance(hearing, SpeechAsText) else None,
        score=space.score,
        embed=space.embed,
        ground=Finder(encoder.detector, components.kinds(connector, names), components.SCENE).ground,
        sampling={"repetition_penalty": components.REPETITION_PENALTY},
        labels=tuple(names[index] for index in connector.class_index.tolist()),
    )


def build(variant: Variant) -> MultimodalLM:
    return components.join(
        *components.fresh(),
        components.BACKBONE.build(),
        components.fresh_hearing() if variant.name == components.HEARS else None,
    )


SYSTEM = System(
    id="mini",
    aliases=("mini", "polymodal mini"),
    year=2026,
    fusion=("C",),
    assembly="MultimodalLM",
    inputs=("text", "image", "audio"),
    outputs=("text",),
    variants=(
        Variant(name="135m", parameters=185_877_455, weights=components.WEIGHTS),
        Variant(name=components.HEARS, parameters=161_564_744, summary="hears through Whisper's encoder alone",
                weights=tuple(source for source in components.WEIGHTS if source is not components.ENGLISH_RANKS)),
    ),
    headline="names and describes a picture and answers typed or spoken questions about it, on a CPU",
    reference="docs/mini.md",
    build=build,
    parts=parts,
    load=load,
    recipe=RECIPE,
)  # fmt: skip
