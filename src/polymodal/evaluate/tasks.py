"""The tasks that `polymodal evaluate --task NAME` measures, by what people call them.

Each takes records of one's own data.  The benchmarks that papers report differ in their data and prompts: name them
when a number is compared.  Where no model here predicts, `--predictions` brings the answers of any other.
"""

from __future__ import annotations

from collections.abc import Mapping

from polymodal.errors import UnknownName
from polymodal.evaluate import (
    affect,
    captions,
    classes,
    dialogue,
    frechet,
    highlights,
    masks,
    meteor,
    paths,
    places,
    questions,
    retrieval,
    similarity,
    sounds,
    speech,
    tracks,
    translation,
)
from polymodal.evaluate.task import Task

CAPTIONING = (captions.CIDER_D, captions.BLEU_1, captions.BLEU_4, captions.ROUGE_L, meteor.METEOR)
LABELS = (classes.ACCURACY, classes.MACRO_F1, classes.WEIGHTED_F1)
SHORT = "{question}\nAnswer the question using a single word or phrase."  # LLaVA's wording, arXiv 2310.03744

ASKED = (
    Task(name="vqa", summary="questions about pictures, with the answers of several people", verb="chat",
         media=("image",), fields=("question", "answers"), prompt=SHORT,
         metrics=(questions.VQA_ACCURACY_2015, questions.VQA_ACCURACY, questions.EXACT_MATCH)),
    Task(name="qa", summary="questions about pictures, with one answer or several right ones", verb="chat",
         media=("image",), fields=("question", "answers"), prompt=SHORT,
         metrics=(questions.EXACT_MATCH, questions.ANLS)),
    Task(name="captioning", summary="a sentence about each picture", verb="chat", media=("image",),
         fields=("captions",), prompt="Describe the picture in one sentence.", max_tokens=64, metrics=CAPTIONING),
    Task(name="video-captioning", summary="a sentence about each video", verb="chat", media=("video",),
         fields=("captions",), prompt="Describe the video in one sentence.", max_tokens=64, metrics=CAPTIONING),
    Task(name="grounding", summary="the box of what a phrase names", verb="ground", media=("image",),
         fields=("phrase", "box"), prompt="Where is {phrase}?", max_tokens=64, metrics=places.GROUNDING),
    Task(name="classification", summary="the label of a picture, of all labels of the data", verb="classify",
         media=("image",), fields=("label",),
         metrics=(classes.ACCURACY, classes.top(5), classes.MEAN_CLASS_ACCURACY, classes.MACRO_F1)),
    Task(name="retrieval", summary="pictures and their captions, each among all", verb="match", media=("image",),
         fields=("captions",), metrics=retrieval.BOTH_WAYS),
    Task(name="transcription", summary="the words of a recording", verb="transcribe", media=("audio",),
         fields=("text",), metrics=(speech.WER, speech.CER)),
)  # fmt: skip
GIVEN = (
    Task(name="labels", summary="one label a sample: sarcasm, humour, entailment, emotion in dialogue ...",
         fields=("label",), metrics=LABELS),
    Task(name="sentiment", summary="a number from -3 to 3, as CMU-MOSI and MOSEI have it", fields=("label",),
         verb="predict", metrics=affect.MOSI),
    Task(name="sentiment-sims", summary="a number from -1 to 1, as CH-SIMS has it", fields=("label",),
         verb="predict", metrics=affect.SIMS),
    Task(name="emotions", summary="which of six emotions are there, as MOSEI has them", fields=("label",),
         metrics=affect.MOSEI_EMOTIONS),
    Task(name="continuous", summary="a number a sample: valence, arousal, PHQ-8", fields=("label",), verb="predict",
         metrics=(affect.CCC, affect.CORR, affect.MAE, affect.RMSE)),
    Task(name="moments", summary="start and end, in seconds, of what a sentence tells", fields=("span",),
         verb="locate", needs=("video", "query"), max_tokens=64, metrics=places.MOMENTS,
         prompt="When does this happen in the video: {query}? Answer with the start and the end in seconds."),
    Task(name="moment-ranking", summary="moments in the order of their scores, as QVHighlights has them",
         fields=("spans",), metrics=highlights.MOMENT_RANKING),
    Task(name="highlights", summary="how good each clip of two seconds is, as QVHighlights has it",
         fields=("duration", "relevant_clip_ids", "saliency_scores"), metrics=highlights.HIGHLIGHTS),
    Task(name="tracking", summary="a box in each frame", fields=("boxes",), metrics=tracks.TRACKING),
    Task(name="video-segmentation", summary="a mask in each frame", fields=("masks",), metrics=masks.VIDEO_OBJECTS),
    Task(name="segmentation", summary="a mask in each picture", fields=("mask",),
         metrics=(masks.MASK_IOU, masks.OVERALL_IOU, masks.DICE, *masks.MASK_PRECISIONS)),
    Task(name="semantic-segmentation", summary="a class for each pixel", fields=("classes",),
         metrics=(masks.CLASS_IOU,)),
    Task(name="navigation", summary="the way that an instruction describes", fields=("path",),
         metrics=paths.NAVIGATION),
    Task(name="dialogue", summary="candidate answers in the order of their scores, as VisDial has them",
         fields=("gt_index",), metrics=(dialogue.MRR, dialogue.RECALL_AT_1, dialogue.RECALL_AT_5,
                                        dialogue.RECALL_AT_10, dialogue.MEAN_RANK)),
    Task(name="dialogue-relevance", summary="the same, with a relevance for each candidate",
         fields=("gt_relevance",), metrics=(dialogue.NDCG,)),
    Task(name="translation", summary="a sentence in another language", fields=("references",),
         metrics=(translation.TRANSLATION_BLEU,)),
    Task(name="separation", summary="one source of a mixture, as samples", fields=("source", "mixture"),
         metrics=sounds.SEPARATION),
    Task(name="generation", summary="features of real and of made pictures, sounds or videos (FID, FAD, FVD, KID)",
         fields=("features",), verb="features", needs=("image", "made"), gives=("features",),
         metrics=(frechet.FRECHET, frechet.KID)),
    Task(name="clip-score", summary="how well a picture that was made fits its text, by a model that reads both",
         fields=("text",), verb="similarity", needs=("image",), metrics=(similarity.CLIP_SCORE,)),
)  # fmt: skip
TASKS: Mapping[str, Task] = {task.name: task for task in (*ASKED, *GIVEN)}


def task_of(name: str | Task) -> Task:
    """A task by its name.  Raises UnknownName, listing them."""
    if isinstance(name, Task):
        return name
    if name not in TASKS:
        raise UnknownName(f"there is no task {name!r}; there are {', '.join(sorted(TASKS))}")
    return TASKS[name]
