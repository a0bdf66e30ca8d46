"""MulT against its official code and MMSA's copy, run outside the project (check/fixtures/mult_*.safetensors)."""

from __future__ import annotations

from polymodal.check.fixture import fixture_case, fixture_size, fixture_source, read
from polymodal.check.record import Evidence

ABOUT, _ = read("mult_aligned")
EVIDENCE = Evidence(
    oracle=fixture_source("mult_aligned"),
    cases=(
        fixture_case("aligned, padded in front, two blocks", "mult_aligned"),
        fixture_case("unaligned, one width needs no convolution, emotions", "mult_unaligned"),
        fixture_case("MMSA's copy: wide kernels, no positions", "mult_mmsa"),
        fixture_case("one target, no mask, three heads", "mult_one_target"),
    ),
    published=(fixture_size("mult_aligned", "mosei", int(ABOUT["parameters"]), "official class on the meta device"),),
)
