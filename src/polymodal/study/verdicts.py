"""The survey's claims about the four types, each with what this study measured for or against it.

A claim about two types is confirmed or refuted where the difference of their means is larger than both standard
deviations together; else it is undecided at this size.  Quantities without spread (parameters, operations) decide by
themselves.  What naming pictures cannot show is "not measured", with the reason.  What is said of a further modality
rests on runs that learned speech behind the pictures, where there are any, else on parameters alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CONFIRMED, REFUTED, UNDECIDED, NOT_MEASURED = "confirmed", "refuted", "undecided", "not measured"
LITTLE = 0.01  # share of all parameters
LEAST = 0.05  # quantities that differ by less do not differ
Study = Mapping[str, Any]


def decided(study: Study, metric: str, first: str, second: str) -> str:
    """Whether a metric of the first type lies above that of the second, beyond the spread of both."""
    a, b = (study["types"][letter][metric] for letter in (first, second))
    return beyond(a, b)


def beyond(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """Whether one mean lies above another by more than both deviations together."""
    if first["deviation"] is None or second["deviation"] is None:
        return UNDECIDED
    if abs(first["mean"] - second["mean"]) <= first["deviation"] + second["deviation"]:
        return UNDECIDED
    return CONFIRMED if first["mean"] > second["mean"] else REFUTED


def larger(a: float, b: float) -> str:
    """Whether a is clearly larger than b, of numbers without spread."""
    return UNDECIDED if abs(a - b) <= LEAST * max(a, b) else CONFIRMED if a > b else REFUTED


def percent(value: Mapping[str, Any]) -> str:
    """A share with its spread."""
    spread = "" if value["deviation"] is None else f" ± {100 * value['deviation']:.1f}"
    return f"{100 * value['mean']:.1f}{spread} %"


def million(value: float) -> str:
    return f"{value / 1e6:.2f} M"


def verdicts(study: Study) -> list[dict[str, str]]:
    """Type, claim, verdict and the numbers that say so, in the survey's order."""
    rows = [*of_a(study), *of_b(study), *of_c(study), *of_d(study)]
    return [dict(zip(("type", "claim", "verdict", "because"), row, strict=True)) for row in rows]


Row = tuple[str, str, str, str]


def accuracies(study: Study, metric: str, *letters: str) -> str:
    return ", ".join(f"{letter} {percent(study['types'][letter][metric])}" for letter in letters)


def operations(study: Study, *letters: str) -> str:
    some = (f"{letter} {study['types'][letter]['operations']['train'] / 1e9:.2f}" for letter in letters)
    return f"{', '.join(some)} GFLOP to learn a sample"


def learned_numbers(study: Study, *letters: str) -> str:
    return (
        ", ".join(f"{letter} {million(study['types'][letter]['trainable'])}" for letter in letters) + " numbers learn"
    )


def unchanged(each: Mapping[str, Any]) -> str:
    """Whether text alone is answered as by the bare backbone."""
    difference = each["text_difference"]
    return CONFIRMED if difference == 0 else REFUTED


def heard(study: Study, *keys: str) -> str:
    """How many recordings each named rightly, and what became of its pictures."""
    types = study["speech"]["types"]
    return "; ".join(
        f"{types[key]['id']}: {percent(types[key]['accuracy'])} of recordings, pictures "
        f"{percent(types[key]['pictures_before'])} before and {percent(types[key]['pictures_after'])} after"
        for key in keys
    )


def learned_speech(study: Study, letter: str) -> str:
    """Whether a type named more recordings than the most frequent label is, beyond the spread."""
    accuracy, floor = study["speech"]["types"][letter]["accuracy"], study["speech"]["most_frequent"]
    return beyond(accuracy, {"mean": floor, "deviation": 0.0})


def kept_and_learned(study: Study, letter: str) -> str:
    """Whether speech was learned while pictures and text were answered exactly as before."""
    found = study["speech"]["types"][letter]
    if found["picture_difference"] or found["text_difference"]:
        return REFUTED
    return CONFIRMED if learned_speech(study, letter) == CONFIRMED else UNDECIDED


def of_a(study: Study) -> list[Row]:
    a, c = study["types"]["A"], study["types"]["C"]
    hungry = decided(study, "accuracy", "C", "A")
    costly = larger(a["operations"]["train"], c["operations"]["train"])
    return [
        ("A", "fine-grained control of the flow of information", NOT_MEASURED,
         "naming one picture has one thing to look at; it needs several pictures a conversation"),
        ("A", "hungry for data", hungry,
         f"named rightly after equal samples: {accuracies(study, 'accuracy', 'A', 'C')}"),
        ("A", "hungry for compute", costly,
         f"{operations(study, 'A', 'C')}; a picture is one position of A's row and "
         f"{c['positions'] - a['positions'] + 1} of C's, so the row that passes the frozen backbone is shorter; "
         f"{learned_numbers(study, 'A', 'C')}"),
        ("A", "a further modality is hard to add", *hard_to_add(study)),
    ]  # fmt: skip


def hard_to_add(study: Study) -> tuple[str, str]:
    """Verdict and reason: A learns less of speech than C while its shared blocks stay as pictures left them."""
    a, c = study["types"]["A"], study["types"]["C"]
    if not study.get("speech"):
        return larger(a["speech_parameters"], c["speech_parameters"]), (
            f"speech adds {million(a['speech_parameters'])} numbers to A where both share the gated blocks, "
            f"{million(c['speech_parameters'])} to C; learning it was not run"
        )
    types = study["speech"]["types"]
    added = f"speech adds {million(types['A']['added'])} numbers to A, {million(types['C']['added'])} to C"
    return beyond(types["C"]["accuracy"], types["A"]["accuracy"]), f"{heard(study, 'A', 'A shared', 'C')}; {added}"


def at_the_input(study: Study) -> tuple[str, str]:
    """Verdict and reason: B learns speech in a branch of its own and answers all else as before."""
    b = study["types"]["B"]
    if not study.get("speech"):
        return unchanged(b), (
            f"a further branch for speech adds {million(b['speech_parameters'])} numbers and leaves text as it was "
            f"(largest difference of its logits: {b['text_difference']:g}); learning it was not run"
        )
    found = study["speech"]["types"]["B"]
    return kept_and_learned(study, "B"), (
        f"a further branch of {million(found['added'])} numbers; {heard(study, 'B')}; {differences(found)}; "
        f"the most frequent label: {100 * study['speech']['most_frequent']:.1f} %"
    )


def easy_to_extend(study: Study) -> tuple[str, str]:
    """Verdict and reason: few numbers more for C, which learn speech, and all else is answered as before."""
    types = study["types"]
    few = types["C"]["speech_parameters"] < LITTLE * types["C"]["parameters"]
    if not study.get("speech"):
        return CONFIRMED if few else REFUTED, (
            "speech adds " + ", ".join(f"{x} {million(types[x]['speech_parameters'])}" for x in "ABCD")
            + f" numbers; easy is taken as less than {LITTLE:.0%} of all; learning it was not run"
        )  # fmt: skip
    heard_types = study["speech"]["types"]
    few = heard_types["C"]["added"] < LITTLE * heard_types["C"]["parameters"]
    return kept_and_learned(study, "C") if few else REFUTED, (
        "speech adds " + ", ".join(f"{x} {million(heard_types[x]['added'])}" for x in "ABCD")
        + f" numbers; easy is taken as less than {LITTLE:.0%} of all, learned, with all else as before; "
        f"{heard(study, *'ABCD')}; of C {differences(heard_types['C'])}"
    )  # fmt: skip


def differences(found: Mapping[str, Any]) -> str:
    return (
        f"largest difference of logits: pictures {found['picture_difference']:.2g}, text {found['text_difference']:.2g}"
    )


def of_b(study: Study) -> list[Row]:
    a, b, c = (study["types"][letter] for letter in "ABC")
    harder = decided(study, "accuracy", "C", "B")
    more = larger(b["trainable"], max(a["trainable"], c["trainable"]))
    return [
        ("B", "fine-grained control", NOT_MEASURED, "as for A"),
        ("B", "cheaper than A", larger(a["operations"]["train"], b["operations"]["train"]),
         f"{operations(study, 'A', 'B')}; {learned_numbers(study, 'A', 'B')}; "
         f"samples a CPU second: A {a['samples_per_second']['mean']:.1f}, B {b['samples_per_second']['mean']:.1f}"),
        ("B", "modalities can be added at the input", *at_the_input(study)),
        ("B", "harder to train", harder,
         f"named rightly after equal samples: {accuracies(study, 'accuracy', 'B', 'C')}"),
        ("B", "more parameters", more,
         f"{learned_numbers(study, *'BACD')}; A's depend on how many blocks are gated, here every fifth"),
    ]  # fmt: skip


def of_c(study: Study) -> list[Row]:
    types = study["types"]
    c, others = types["C"], [types[letter] for letter in "ABD"]
    least = min(each["operations"]["train"] for each in others)
    cheapest = larger(least, c["operations"]["train"])
    reached = c["accuracy"]["mean"] / max(study["probes"]["features"], 1e-9)
    return [
        ("C", "simple and modular", unchanged(c),
         f"no block changes; logits of text alone differ from the bare backbone's by {c['text_difference']:g}"),
        ("C", "cheapest", cheapest, f"{operations(study, *'ABCD')}; {learned_numbers(study, *'ABCD')}"),
        ("C", "easy to extend", *easy_to_extend(study)),
        ("C", "limited control of fusion", NOT_MEASURED, "as for A"),
        ("C", "depends on the encoder", UNDECIDED,
         f"one encoder was used; C reaches {100 * reached:.0f} % of what ridge regression names from the same features "
         f"({100 * study['probes']['features']:.1f} %)"),
    ]  # fmt: skip


def of_d(study: Study) -> list[Row]:
    probes, d = study["probes"], study["types"]["D"]
    lost = CONFIRMED if probes["codes"] < 0.9 * probes["features"] else REFUTED
    behind = decided(study, "accuracy", "C", "D")
    return [
        ("D", "one autoregressive objective, any to any", NOT_MEASURED,
         "so by construction: its head has rows for pictures too; only names were learned here"),
        ("D", "needs a good tokenizer, loses information", lost,
         f"codes by k-means keep {100 * study['kept_variance']:.0f} % of the features' variance; ridge regression "
         f"names {100 * probes['codes']:.1f} % from codes and {100 * probes['features']:.1f} % from features"
         + of_recordings(study.get("speech"))),
        ("D", "needs large training", behind,
         f"named rightly after equal samples: {accuracies(study, 'accuracy', 'D', 'C')}; "
         f"{million(d['trainable'])} numbers learn"),
    ]  # fmt: skip


def of_recordings(speech: Mapping[str, Any] | None) -> str:
    """The same of speech, where it was run."""
    if not speech:
        return ""
    codes, features = (100 * speech["probes"][name] for name in ("codes", "features"))
    return f"; of recordings {codes:.1f} % from codes and {features:.1f} % from features"
