"""ImageBind against the official code, run outside the project: six modalities, clips, pictures of another size."""

from __future__ import annotations

from polymodal.check.fixture import fixture_case, fixture_source, packed_size
from polymodal.check.record import Evidence

EVIDENCE = Evidence(
    oracle=fixture_source("imagebind"),
    cases=(
        fixture_case("six modalities, three clips of sound", "imagebind"),
        fixture_case("clips of video, one layer, sound of another length", "imagebind_clips"),
        fixture_case("larger pictures", "imagebind_larger"),
    ),
    published=(packed_size("imagebind_sizes", "huge", 1_200_781_057),),
    exceptions=(
        "videos are read at 8 frames a second, the official loader takes the very last frame of each clip",
        "a recording with several channels is mixed to one, the official loader takes the first",
    ),
)
