"""A dictionary of a few dozen nouns in WordNet's own file format, for tests of the readers."""

from pathlib import Path

# lemma(s), lexicographer file, parent
NOUNS = [
    (("entity",), 3, None), (("person",), 18, "entity"), (("animal",), 5, "entity"), (("vehicle",), 6, "entity"),
    (("food",), 13, "entity"), (("plant",), 6, "entity"), (("plant",), 20, "entity"), (("clothing",), 6, "entity"),
    (("car", "auto", "automobile"), 6, "vehicle"), (("sports_car", "sport_car"), 6, "car"), (("truck",), 6, "vehicle"),
    (("fire_truck",), 6, "truck"), (("dog", "domestic_dog"), 5, "animal"), (("cat",), 5, "animal"),
    (("frog",), 5, "animal"), (("horse",), 5, "animal"), (("bird",), 5, "animal"), (("penguin",), 5, "bird"),
    (("elephant",), 5, "animal"), (("deer",), 5, "animal"), (("apple",), 13, "food"), (("orange",), 13, "food"),
    (("pear",), 13, "food"), (("soup",), 13, "food"), (("bowl",), 6, "entity"), (("hat",), 6, "clothing"),
    (("fedora",), 6, "hat"), (("airplane", "plane"), 6, "vehicle"), (("ship",), 6, "vehicle"), (("melon",), 13, "food"),
    (("octopus",), 5, "animal"), (("fox",), 5, "animal"), (("red_fox",), 5, "fox"), (("grape",), 13, "food"),
    (("house",), 6, "entity"), (("knife",), 6, "entity"), (("Paris",), 15, "entity"), (("idea",), 9, "entity"),
    (("watermelon",), 13, "melon"), (("cantaloupe",), 13, "melon"), (("satsuma",), 13, "food"),
]  # fmt: skip


def write(folder: Path) -> Path:
    """Write index.noun, data.noun, noun.exc and the indexes of the other word classes below `folder`."""
    place = folder / "usr" / "share" / "wordnet"
    place.mkdir(parents=True)
    offsets: dict[str, list[int]] = {}
    rows = []
    for number, (lemmas, file, parent) in enumerate(NOUNS):
        offset = 1000 + number
        words = " ".join(f"{lemma} 0" for lemma in lemmas)
        up = f"001 @ {offsets[parent][0]:08d} n 0000" if parent else "000"
        rows.append(f"{offset:08d} {file:02d} n {len(lemmas):02x} {words} {up} | a gloss")
        for lemma in lemmas:
            offsets.setdefault(lemma.lower(), []).append(offset)
    licence = "  1 This is a licence line of the database.\n"
    (place / "data.noun").write_text(licence + "\n".join(rows) + "\n")
    index = [
        f"{lemma} n {len(found)} 1 @ {len(found)} 0 {' '.join(f'{offset:08d}' for offset in found)}"
        for lemma, found in sorted(offsets.items())
    ]
    (place / "index.noun").write_text(licence + "\n".join(index) + "\n")
    (place / "noun.exc").write_text("knives knife\noctopodes octopus\n")
    adjectives = "".join(f"{word} a 1 0 1 1 00000001\n" for word in ("red", "happy", "foggy"))
    (place / "index.adj").write_text(licence + adjectives)
    (place / "index.verb").write_text(licence + "run v 1 0 1 1 00000001\n")
    (place / "index.adv").write_text(licence + "very r 1 0 1 1 00000001\n")
    return folder
