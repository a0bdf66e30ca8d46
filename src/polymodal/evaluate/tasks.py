"""The tasks that `polymodal evaluate --task NAME` measures, by what people call them.

Each takes records of one's own data.  The benchmarks that papers report differ in their data and prompts: name them
when a number is compared.  Where no model here predicts, `--predictions` brings the answers of any other.
"""

from __future__ import annotations

from collections.abc import Mapping

from polymodal.errors import UnknownName
from polymodal.evaluate import (
    affect,
    binary,
    captions,
    classes,
    depths,
    dialogue,
    frechet,
    groups,
    highlights,
    masks,
    meteor,
    paths,
    places,
    posteriors,
    questions,
    retrieval,
    separation,
    similarity,
    sounds,
    speech,
    summaries,
    tracks,
    translation,
    vectors,
)
from polymodal.evaluate.task import Task

CAPTIONING = (captions.CIDER_D, captions.BLEU_1, captions.BLEU_4, captions.ROUGE_L, meteor.METEOR)
LABELS = (classes.ACCURACY, classes.MACRO_F1, classes.WEIGHTED_F1, classes.MACRO_PRECISION, classes.MACRO_RECALL,
          classes.WEIGHTED_PRECISION, classes.WEIGHTED_RECALL)  # fmt: skip
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
    Task(name="binary", summary="yes or no: depression, sarcasm, a finding; answers or how sure", fields=("label",),
         metrics=binary.BINARY),
    Task(name="pairs", summary="labels that count where all rows of a sentence are right, as NLVR2 has them",
         fields=("label", "sentence"), metrics=(groups.SENTENCES, classes.ACCURACY)),
    Task(name="choices", summary="an answer and a rationale out of four each, as VCR has them",
         fields=("answer", "rationale"), metrics=groups.CHOICES),
    Task(name="chains", summary="tasks done in a row, as CALVIN has them", fields=("tasks",), metrics=groups.CHAINS),
    Task(name="ranking", summary="similarities of a query with a gallery: videos and texts, sounds and texts",
         fields=("relevant",), metrics=(*retrieval.RETRIEVAL, retrieval.MAP_10)),
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
    Task(name="summaries", summary="frames that were chosen, as TVSum and SumMe have them", fields=("summaries",),
         metrics=summaries.FRAMES),
    Task(name="query-summaries", summary="shots that were chosen for a query, as QFVS has them",
         fields=("concepts", "selected"), metrics=(summaries.SHOT_F1,)),
    Task(name="tracking", summary="a box in each frame", fields=("boxes",), metrics=tracks.TRACKING),
    Task(name="video-segmentation", summary="a mask in each frame", fields=("masks",), metrics=masks.VIDEO_OBJECTS),
    Task(name="segmentation", summary="a mask in each picture", fields=("mask",),
         metrics=(masks.MASK_IOU, masks.OVERALL_IOU, masks.DICE, masks.HD95, *masks.MASK_PRECISIONS)),
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
    Task(name="sources", summary="all sources of a mixture, as samples", fields=("sources",),
         metrics=separation.BSS_EVAL),
    Task(name="generation", summary="features of real and of made pictures, sounds or videos (FID, FAD, FVD, KID)",
         fields=("features",), verb="features", needs=("image", "made"), gives=("features",),
         metrics=(frechet.FRECHET, frechet.KID)),
    Task(name="inception-score", summary="class probabilities of what was made", fields=(),
         metrics=(posteriors.INCEPTION_SCORE,)),
    Task(name="class-divergence", summary="class probabilities of real sounds and of made ones",
         fields=("posterior",), metrics=(posteriors.KL,)),
    Task(name="vector-similarity", summary="vectors of real and of made things: speakers, pictures, edits",
         fields=("features",), metrics=(vectors.SIMILARITY,)),
    Task(name="edits", summary="whether a picture changed as its text did, by vectors",
         fields=("before", "text_before", "text_after"), metrics=(vectors.DIRECTION,)),
    Task(name="frame-consistency", summary="vectors of the frames of a video", fields=(),
         metrics=(vectors.CONSISTENCY,)),
    Task(name="alignment", summary="vectors of two models of the same things", fields=("features",),
         metrics=(vectors.MUTUAL_KNN,)),
    Task(name="depth", summary="metres of each pixel", fields=("depth",), metrics=depths.DEPTHS),
    Task(name="faces", summary="vertices of a speaking face", fields=("vertices", "lips", "upper", "template"),
         metrics=depths.FACES),
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
