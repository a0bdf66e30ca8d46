"""Write the model card docs/mini.md from the output of measure.py and measure_speech.py; no number is typed by hand."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

TEXT = Path(__file__).with_name("card.md")
SPOKEN = {
    "tuxpaint": "picture captions, unknown voices (Tux Paint)",
    "asterisk": "telephone prompts, a voice in the training set (Asterisk)",
    "pocketsphinx": "sentences and card calls, unknown voices (LibriVox, PocketSphinx)",
}
NOUNS = {"typed": "typed", "words": "spoken, transcribed by Whisper", "direct": "spoken, as audio features",
         "no noun": 'missing ("Is this it?")'}  # fmt: skip
KINDS = {"yes_no": "yes or no", "which": "which of 2 to 4", "colour": "colour", "category": "kind of thing"}


def naming(found: dict, field: str) -> str:
    systems = ["mini", "words", "language model", *(["top words"] if field == "word" else [])]
    rows = ["| test images | " + " | ".join(systems) + " |", "|---|" + "---|" * len(systems)]
    for name, cells in found["naming"].items():
        rows.append(f"| {name} | " + " | ".join(cells[s][field]["text"] for s in systems) + " |")
    return "\n".join(rows)


def questions(found: dict) -> str:
    rows = ["| question | correct | trained wording | new wording | chance |", "|---|---|---|---|---|"]
    for kind, title in KINDS.items():
        cell, chance = found["questions"][kind], found["questions"]["chance"][f"test/{kind}"]["chance"]
        wordings = f"{cell['trained wording']['text']} | {cell['new wording']['text']}"
        rows.append(f"| {title} | {cell['text']} | {wordings} | {100 * chance:.0f} % |")
    yes = found["questions"]["yes_no"]["said yes"]
    note = f"The answer is yes for half of the yes/no questions; `mini` answers yes to {yes:.0%}."
    return "\n".join([*rows, "", note])


def retrieval(found: dict) -> str:
    keys = [f"{way} R@{k}" for way in ("picture to caption", "caption to picture") for k in (1, 5)]
    titles = [key.replace("picture", "image") for key in keys]
    rows = ["| set (images, captions) | system | " + " | ".join(titles) + " |", "|---|---|" + "---|" * len(keys)]
    for corpus, cells in found["retrieval"].items():
        for system in ("mini", "words"):
            numbers = " | ".join(cells[system][k]["text"].partition(",")[0] + ")" for k in keys)
            rows.append(f"| {corpus} ({cells['pictures']}, {cells['captions']}) | {system} | {numbers} |")
    return "\n".join(rows)


def text_only(found: dict) -> str:
    cell = found["text_only"]
    return (
        f"On {cell['sentences']} sentences without context the perplexity is {cell['bare']:.0f} for SmolLM2 alone "
        f"and {cell['adapted']:.0f} with\nthe adapters merged. So the original SmolLM2 answers conversations without "
        "image or recording\n(it is loaded on first use and takes another 0.5 GB); the adapted one answers all others."
    )


def speech(found: dict) -> str:
    """Word errors and answers of the two speech paths on recordings of people."""
    words, direct, asked = found["words"], found["direct"], found["asked"]
    rows = ["| word error rate, 95 % interval | recordings, words | transcribed: words | transcribed: direct "
            "| repeated: words | repeated: direct |", "|---" * 6 + "|"]  # fmt: skip
    for corpus, title in SPOKEN.items():
        size = f"{words[corpus]['heard']['n']}, {words[corpus]['heard']['words']}"
        cells = [system[corpus][way]["text"] for way in ("heard", "repeated") for system in (words, direct)]
        rows.append(f"| {title} | {size} | " + " | ".join(cells) + " |")
    size = f"{words['orders']['n']}, {words['orders']['words']}"
    rows.append(f"| coffee orders: missed words of the terms | {size} | {words['orders']['text']} "
                f"| {direct['orders']['text']} | | |")  # fmt: skip
    rows += ["", '| "Is this ...?", the noun is | correct | same answer as typed |', "|---|---|---|"]
    rows += [f"| {title} | {asked[way]['right']['text']} | {asked[way]['as typed']['text']} |"
             for way, title in NOUNS.items()]  # fmt: skip
    return "\n".join(rows)


def heard(found: dict, count: int = 8) -> str:
    """The first recordings of each set, with the transcripts of both speech paths."""
    rows = ["| recording | reference | words | direct |", "|---|---|---|---|"]
    for corpus in SPOKEN:
        items = [(name, item) for name, item in found["samples"].items() if name.startswith(f"{corpus}/")]
        rows += [f"| {name} | {item['right']} | {item['mini:135m']['heard']} | {item['mini:hears']['heard']} |"
                 for name, item in items[:count]]  # fmt: skip
    return "\n".join(rows)


def samples(found: dict, count: int = 6) -> str:
    """The first few answers of each set, correct or not."""
    rows = ["| set | image | correct answer | question | mini |", "|---|---|---|---|---|"]
    shown: dict[str, int] = {}
    for item in found["samples"]:
        if item.get("system", "mini") == "mini" and shown.setdefault(item["set"], 0) < count:
            shown[item["set"]] += 1
            right = item["right"] if isinstance(item["right"], str) else item["right"][0]
            ask = item.get("question", "What is this?")
            rows.append(f"| {item['set']} | {item['picture']} | {right} | {ask} | {item['answer'].replace('|', '/')} |")
    return "\n".join(rows)


def data(manifest: dict) -> str:
    rows = ["| set | train | validation | test | unseen style | removed (near-duplicates of test images) |",
            "|---" * 6 + "|"]  # fmt: skip
    for corpus, counts in manifest["counts"].items():
        removed = sum(n for key, n in manifest["removed_near_test"].items() if key.startswith(f"{corpus}/"))
        numbers = " | ".join(str(counts.get(split, 0)) for split in ("train", "val", "test", "style"))
        rows.append(f"| {corpus} | {numbers} | {removed} |")
    rows += ["", "| package | version | licence | sha256 |", "|---|---|---|---|"]
    listed = {(s["package"], s["version"], s["license"], s["sha256"]) for s in manifest["sources"]}
    rows += [f"| {name} | {version} | {licence} | `{digest}` |" for name, version, licence, digest in sorted(listed)]
    return "\n".join(rows)


def photographs(found: dict, behind: dict, before: dict) -> str:
    """Right nouns in photographs, from measure_photographs.py: now, with the picture left behind the question, and that
    without the detector."""
    columns = {"mini": found, "picture behind the question": behind, "so, without the detector": before}
    rows = [f"| photographs | {' | '.join(columns)} | plain classifier | plain classifier, everyday words |",
            "|---" * (3 + len(columns)) + "|"]  # fmt: skip
    for kind, cells in found["table"].items():
        mini = " | ".join(column["table"][kind]["mini"] for column in columns.values())
        rows.append(f"| {kind} | {mini} | {cells['classifier']} | {cells['everyday']} |")
    rows += ["", f'| "Is there a dog in the picture?" | {" | ".join(columns)} |', "|---" * (1 + len(columns)) + "|"]
    for right, what in (("yes", "the largest kind of thing in the scene"), ("no", "a kind that is not in it")):
        rows.append(f"| {what} | " + " | ".join(column["questions"][right] for column in columns.values()) + " |")
    boxes = found["boxes"]
    rows += ["", f"Boxes (`ask --boxes`): {boxes['found']} of the things in these scenes are found, and\n"
             f"{boxes['right']} of the boxes given are right."]  # fmt: skip
    return "\n".join([*rows, "", several(found)])


def several(found: dict) -> str:
    """Several names in one answer, and "I cannot tell"."""
    names, told = found["several"], found["cannot tell"]
    rows = ["| in wordings that were not trained | |", "|---|---|"]
    rows += [f"| {title} | {share} |" for title, share in (
        ('"Which objects are shown?", scenes: names given that are right', names["right"]),
        ("the same: kinds of things covering at least 2 % that are named", names["found"]),
        ('"I cannot tell" to a question that mini cannot answer', told["unknown"]),
        ('"I cannot tell" to one that it can', told["known"]))]  # fmt: skip
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measured", type=Path, help="output of measure.py")
    parser.add_argument("speech", type=Path, help="output of measure_speech.py")
    parser.add_argument("data", type=Path, help="output folder of prepare.py, for its manifest")
    parser.add_argument("--photographs", type=Path, nargs=3, required=True, metavar=("NOW", "BEHIND", "BEFORE"),
                        help="outputs of measure_photographs.py")  # fmt: skip
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    found = json.loads(args.measured.read_text())
    spoken = json.loads(args.speech.read_text())
    text = TEXT.read_text(encoding="utf-8")
    parts = {"exact": naming(found, "exact"), "word": naming(found, "word"), "questions": questions(found),
             "retrieval": retrieval(found), "text_only": text_only(found), "samples": samples(found),
             "photographs": photographs(*(json.loads(path.read_text()) for path in args.photographs)),
             "speech": speech(spoken), "heard": heard(spoken),
             "data": data(json.loads((args.data / "manifest.json").read_text()))}  # fmt: skip
    for name, part in parts.items():
        text = text.replace(f"<!-- {name} -->", part)
    args.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
