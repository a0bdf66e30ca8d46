"""Which collator a stage of classes has, by what the model reads: pictures, regions, or files of features."""

from __future__ import annotations

from torch import nn

from polymodal.data.pair_processor import PairProcessor
from polymodal.data.region_processor import RegionProcessor
from polymodal.errors import ConfigError
from polymodal.models.decomposition_relation import DecompositionRelation
from polymodal.models.joint_dictionary import JointDictionary
from polymodal.train.collator import Collator, Learner
from polymodal.train.feature_batches import feature_batches
from polymodal.train.labelled import LabelledPictures, LabelledSequences, ScoredAnswers
from polymodal.train.pairs import pair_processor
from polymodal.train.region_batches import RegionAnswers


def classified(learner: Learner) -> Collator:
    """Raises ConfigError for a model that names no classes, or lacks the processor of what it reads."""
    processor, module = learner.processor, learner.module
    if isinstance(processor, RegionProcessor):
        if not processor.answers:
            raise ConfigError("this checkpoint has no head of answers; take one of the class that answers questions")
        return RegionAnswers(processor=processor, longest=learner.max_length)
    if not isinstance(processor, PairProcessor):
        return _of_features(module, processor is None and not learner.labels)
    pairs = pair_processor(learner, texts=False)
    if not learner.labels:
        raise ConfigError("this model names no classes: its config.json has neither id2label nor num_labels")
    made: type[LabelledPictures | ScoredAnswers] = ScoredAnswers if pairs.takes_text else LabelledPictures
    return made(processor=pairs, labels=learner.labels)


def _of_features(module: nn.Module, plain: bool) -> Collator:
    if isinstance(module, DecompositionRelation | JointDictionary):
        return feature_batches(module, labels=("M",), classes=True)
    if plain:
        return LabelledSequences()
    raise ConfigError("this model has no processor of pictures, and no labels")
