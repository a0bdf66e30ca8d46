"""ALBEF against its official code, run outside the project (check/fixtures/albef_*.safetensors).

Names and counts at published size are the official classes' on the meta device, without the momentum copies and queues
of a run; that those are dropped by name is tested in tests/systems/test_albef.py.
"""

from __future__ import annotations

from polymodal.check.fixture import fixture_case, fixture_size, fixture_source, read
from polymodal.check.record import Evidence, Size


def size(variant: str, kind: str) -> Size:
    about, _ = read(f"albef_{kind}")
    return fixture_size(f"albef_{kind}", variant, int(about["parameters"]), f"official classes, {about['source']}")


EVIDENCE = Evidence(
    oracle=fixture_source("albef_pretrained"),
    cases=(
        fixture_case("pretrained file: match and joint space", "albef_pretrained"),
        fixture_case("retrieval file: match and joint space", "albef_retrieval"),
        fixture_case("answers to questions of unequal length", "albef_answer"),
        fixture_case("pairs of pictures, 18 blocks", "albef_pair"),
        fixture_case("entailment", "albef_entailment"),
        fixture_case("text assignment before pairs", "albef_assignment"),
    ),
    published=(
        size("pretrained-14m", "pretrained"),
        size("mscoco", "retrieval"),
        size("vqa", "answer"),
        size("nlvr2", "pair"),
        size("pretrained-nlvr", "assignment"),
    ),
)
