"""Each reader against a tiny package of the same layout, made here."""

import gzip
import io
import json

import numpy as np
import pytest
from corpora import cifar10, emoji, groceries, lexicon, openclipart, quickdraw, tuxpaint
from PIL import Image

import tiny_words
from polymodal.data.sets import split
from polymodal.errors import MediaError


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return lexicon.read(tiny_words.write(tmp_path_factory.mktemp("wordnet")))


def save_png(path, colour=(200, 30, 30, 255), size=(20, 10)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGBA", size, colour).save(path)


def test_tuxpaint(tmp_path, words):
    root = tmp_path / "usr/share/tuxpaint/stamps"
    for name, text in (
        ("animals/frog", "A frog.\nfr=Une grenouille.\n"),
        ("animals/cartoon/frog-2", "A frog.\n"),
        ("food/apple", "Remember to eat it every single day!\n"),
        ("symbols/math/3", "Three.\n"),
        ("jokes/kpx", "Boo!\n"),
        ("animals/no_picture", "A horse.\n"),
    ):
        path = root / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        if name != "animals/no_picture":
            save_png(path.with_suffix(".png"))
    (root / "animals/frog.svg").write_text("<svg/>")
    corpus = tuxpaint.open(tmp_path, words)
    by_path = {picture.path: picture for picture in corpus.pictures}
    assert set(by_path) == {
        "animals/frog.png", "animals/cartoon/frog-2.png", "food/apple.png", "symbols/math/3.png"
    }  # fmt: skip
    frog = by_path["animals/frog.png"]
    assert (frog.caption, frog.nouns, frog.kind, frog.style) == ("a frog", ("frog",), "animal", "photo")
    assert frog.key == "a frog" and frog.split == split.split_of("a frog")
    assert by_path["animals/cartoon/frog-2.png"].style == "cartoon"
    assert by_path["animals/cartoon/frog-2.png"].split == frog.split
    assert by_path["food/apple.png"].caption == "an apple"  # from the file name
    assert by_path["symbols/math/3.png"].caption == "the number three"
    assert corpus.image(frog).size == (20, 10)
    with pytest.raises(MediaError, match="tuxpaint-stamps-default"):
        tuxpaint.open(tmp_path / "usr/share/tuxpaint/stamps/jokes", words)


SVG = """<svg><metadata><rdf:RDF><cc:Work><dc:title>{title}</dc:title>
<dc:subject><rdf:Bag>{words}</rdf:Bag></dc:subject>
<dc:creator><cc:Agent><dc:title>{author}</dc:title></cc:Agent></dc:creator></cc:Work></rdf:RDF></metadata></svg>"""


def test_openclipart(tmp_path, words):
    drawings = {
        "food/apple_nicu_01": ("Red Apple 01", ["food"], "Nicu"),
        "animals/cavallo_01": ("Cavallo", ["mammal"], "Architetto Francesco Rollandin"),
        "animals/cane_01": ("Idea", ["mammal", "dog"], "Architetto Francesco Rollandin"),
        "signs_and_symbols/flags/europe/france_lorraine": ("France - Lorraine", [], "X"),
        "computer/icons/lemon-theme/apps/kpx": ("Lemon SVG theme", ["icon", "hash(0x1)"], "Y"),
        "computer/icons/house": ("Lemon SVG theme", ["icon"], "Y"),
        "shapes/stars/star_1": ("House", [], "Z"),
        "transportation/roadsigns/horse_": ("SVG Road Signs", [], "Z"),
    }
    for name, (title, keys, author) in drawings.items():
        save_png(tmp_path / f"usr/share/openclipart/png/{name}.png")
        path = tmp_path / f"usr/share/openclipart/svg/{name}.svg"
        path.parent.mkdir(parents=True, exist_ok=True)
        items = "".join(f"<rdf:li>{key}</rdf:li>" for key in keys)
        path.write_text(SVG.format(title=title, words=items, author=author))
    (tmp_path / "usr/share/openclipart/png/food/link.png").symlink_to("apple_nicu_01.png")
    shown = frozenset({"dog", "house", "apple"})
    vocabulary = openclipart.Words(lexicon=words, translate={"cavallo": "horse"}, shown=shown)
    found = {picture.path: picture for picture in openclipart.open(tmp_path, vocabulary).pictures}
    captions = {path: picture.caption for path, picture in found.items()}
    assert captions == {
        "food/apple_nicu_01.png": "a red apple",
        "animals/cavallo_01.png": "a horse",
        "animals/cane_01.png": "a dog",  # an Italian author's title is not trusted as English, the key word is
        "signs_and_symbols/flags/europe/france_lorraine.png": "the flag of Lorraine",
        "computer/icons/house.png": "a house",
        "transportation/roadsigns/horse_.png": "a horse sign",
    }
    apple = found["food/apple_nicu_01.png"]
    assert apple.key == "red apple" and apple.nouns[:2] == ("apple", "red apple") and apple.kind == "food"


def make_emoji(tmp_path):
    cldr, openmoji, fluent = tmp_path / "cldr", tmp_path / "openmoji", tmp_path / "fluent"
    for locale, names in (
        ("en", {"🐸": "frog face", "👋": "waving hand", "❤️": "red heart", "🌁": "foggy"}),
        ("it", {"🐸": "muso di rana"}),
    ):
        path = cldr / f"package/annotations/{locale}/annotations.json"
        path.parent.mkdir(parents=True)
        table = {sign: {"default": ["word"], "tts": [name]} for sign, name in names.items()}
        path.write_text(json.dumps({"annotations": {"annotations": table}}))
    rows = [
        ("1F438", "animals-nature", "animal-amphibian", "frog"),
        ("1F44B", "people-body", "hand-fingers-open", "waving hand"),
        ("2764", "smileys-emotion", "heart", "red heart"),
        ("1F301", "travel-places", "place-other", "foggy"),
        ("1F1F5-1F1EA", "flags", "country-flag", "flag: Peru"),
        ("1F44B-1F3FB", "people-body", "hand-fingers-open", "waving hand: light skin tone"),
        ("E000", "extras-openmoji", "brand", "something"),
    ]
    data = openmoji / "package/data/openmoji.json"
    data.parent.mkdir(parents=True)
    keys = ("hexcode", "group", "subgroups", "annotation")
    data.write_text(json.dumps([{**dict(zip(keys, row, strict=True)), "tags": "a, b"} for row in rows]))
    svg = openmoji / "package/color/svg"
    svg.mkdir(parents=True)
    for code in ("1F438", "1F44B-1F3FB"):
        (svg / f"{code}.svg").write_text(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 72 72">'
            '<rect width="72" height="36" fill="red"/></svg>'
        )
    assets = fluent / "package/assets"
    assets.mkdir(parents=True)
    tones = [f"1f44b-1f3f{tone}" for tone in "bcdef"]
    for code in ("1f438", "2764-fe0f", "1f1f5-1f1ea", "1f44b", *tones):
        Image.new("RGBA", (8, 8), (0, 200, 0, 255)).save(assets / f"{code}.webp")
    return cldr, openmoji, fluent


def test_emoji(tmp_path, words):
    cldr, openmoji, fluent = make_emoji(tmp_path)
    table = emoji.read_names(cldr, openmoji)
    assert set(table) == {"1f438", "1f44b", "2764", "1f301", "1f1f5-1f1ea"}
    assert emoji.translations(cldr, ("it",)) == {"rana": "frog"}
    corpus = emoji.open_fluent(fluent, table, words)
    captions = {}
    for picture in corpus.pictures:
        captions.setdefault(picture.caption, []).append(picture)
    assert {text: len(found) for text, found in captions.items()} == {
        "a frog": 1, "a red heart": 1, "the flag of Peru": 1, "a waving hand": 3
    }  # fmt: skip
    assert len({picture.key for picture in captions["a waving hand"]}) == 1  # tones share key and side
    flag = captions["the flag of Peru"][0]
    assert flag.nouns[0] == "flag of Peru" and flag.kind == "flag" and flag.category == "flags/country-flag"
    assert corpus.image(flag).size == (8, 8)


def test_openmoji_is_never_for_training(tmp_path, words):
    cldr, openmoji, _ = make_emoji(tmp_path)
    corpus = emoji.open_openmoji(openmoji, emoji.read_names(cldr, openmoji), words)
    (frog,) = corpus.pictures
    assert frog.key == "1f438" and frog.split in ("style", "val", "test")
    assert frog.split == {"train": "style"}.get(split.split_of("1f438"), split.split_of("1f438"))
    pytest.importorskip("resvg_py")
    assert corpus.image(frog).size[0] == 224


@pytest.mark.parametrize(
    ("text", "key"),
    [("1F469-1F3FB", "1f469"), ("❤️", "2764"), ("2764-FE0F", "2764"), ("1F469-200D-1F33E", "1f469-200d-1f33e")],
)
def test_emoji_key(text, key):
    assert emoji.code_key(text) == key


def test_quickdraw(tmp_path, words):
    folder = tmp_path / "package/src/drawings"
    folder.mkdir(parents=True)
    for word in ("octopus", "horse", "The Mona Lisa"):
        rows = [[(row + cell) % 2 for cell in range(784)] for row in range(100)]
        with gzip.open(folder / f"{word}.ndjson.gz", "wt") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    corpus = quickdraw.open(tmp_path, words)
    for word in ("octopus", "horse", "The Mona Lisa"):
        mine = [picture for picture in corpus.pictures if picture.path.startswith(word)]
        sides = {picture.split for picture in mine}
        whole = split.split_of(word)
        assert sides == ({whole} if whole != "train" else {"train", "val", "test"})
        for picture in mine if whole == "train" else ():
            assert picture.split == split.split_of(f"{word}/{picture.index}")
        assert sum(picture.split == "train" for picture in mine) <= 30
    assert {picture.caption for picture in corpus.pictures} == {"an octopus", "a horse", "the Mona Lisa"}
    image = corpus.image(corpus.pictures[0])
    assert image.size == (224, 224) and image.mode == "RGB"


def test_cifar10(tmp_path, words):
    rng = np.random.default_rng(0)
    root = tmp_path / "package"
    root.mkdir()
    train = [number % 10 for number in range(400)]
    (root / "train_lables.json").write_text(json.dumps(train))
    (root / "test_lables.json").write_text(json.dumps(train[:100]))
    pixels = rng.integers(0, 256, (400, 1024, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(root / "data_batch_1.png")
    Image.fromarray(pixels[:100]).save(root / "test_batch.png")
    corpus = cifar10.open(tmp_path, words, train=20, test=3)
    sides = [picture.split for picture in corpus.pictures]
    assert (sides.count("train"), sides.count("val"), sides.count("test")) == (190, 10, 30)
    assert corpus.pictures == cifar10.open(tmp_path, words, train=20, test=3).pictures
    for picture in corpus.pictures[:5]:
        assert cifar10.CLASSES[train[picture.index]] == picture.nouns[0]
        middle = np.asarray(corpus.image(picture).resize((32, 32), Image.Resampling.BOX), dtype=int)
        assert np.abs(middle - pixels[picture.index].reshape(32, 32, 3)).mean() < 25


def test_groceries(tmp_path, words):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    buffer = io.BytesIO()
    Image.new("RGB", (12, 12), (9, 200, 9)).save(buffer, "JPEG")
    table = pa.table(
        {
            "dataset": ["train", "test"], "coarse_cat": ["Apple", "Melon"],
            "finegrained_cat": ["Granny-Smith", "Galia-Melon"], "image_data": [buffer.getvalue()] * 2,
        }
    )  # fmt: skip
    (tmp_path / "groceries").mkdir()
    parquet.write_table(table, tmp_path / "groceries/images2.parquet")
    apple, melon = groceries.open(tmp_path, words).pictures
    assert (apple.caption, apple.nouns[0], apple.split) == ("a Granny Smith apple", "apple", "train")
    assert (melon.caption, melon.broader, melon.split) == ("a Galia melon", ("melon",), "test")
    assert groceries.open(tmp_path, words).image(apple).size == (12, 12)


@pytest.mark.parametrize("reader", [cifar10.open, groceries.open, quickdraw.open, tuxpaint.open])
def test_missing_packages_are_named(tmp_path, words, reader):
    with pytest.raises(MediaError, match="unpack"):
        reader(tmp_path, words)
