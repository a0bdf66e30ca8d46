"""The fusion study: mini-a to mini-d on equal data, backbone and budget, several seeds each.

    runs, one by one, each in a process of its own (fusion_run.py) -> OUT/runs/<type>-<seed>/result.json
        -> with recordings, speech behind the pictures (speech_run.py) -> OUT/runs/<type>-<seed>/speech/result.json
        -> fusion.json: means and spreads (fusion_summary.py), verdicts (verdicts.py)
        -> fusion.html, fusion.md (fusion_page.py)

A run that is finished is not run again, so a study that was stopped goes on with the same command and loses one run at
most.  What a run of pictures learned is kept until speech has learned behind it; where that is gone, the run comes
again.  Traps: runs of another plan in the folder are refused, since means over unlike runs would say nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from polymodal.errors import ConfigError
from polymodal.study import fusion_page, fusion_run, speech_run
from polymodal.study.fusion_run import LEARNED, PLAN, RESULT, Plan
from polymodal.study.fusion_summary import speech_summary, summary
from polymodal.study.fusion_types import TYPES
from polymodal.study.speech_run import SpeechPlan
from polymodal.study.verdicts import verdicts
from polymodal.study.writing import fast_bfloat16, write

Say = Callable[[str], None]
QUICK = {"names": 6, "codes": 16, "steps": 30, "batch": 16, "evaluations": 2, "precision": "float32"}
# Memory of large tensors is kept by the process: giving it back and taking it again costs a third of the time.
KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 32)}


@dataclass(frozen=True, kw_only=True)
class FusionOptions:
    """data: pictures with names of one word.  speech: recordings with labels, which each type then learns beside them;
    None: speech is counted in parameters alone.  out: the folder.  quick: a trial of a minute at tiny size, on the
    samples of `polymodal check --fetch` and on tones; it says nothing about the types.  seeds: runs of each type."""

    out: Path
    data: Path | None = None
    speech: Path | None = None
    seeds: int = 3
    steps: int = 100
    batch: int = 16
    names: int = 64
    codes: int = 512
    evaluations: int = 4
    quick: bool = False

    def plans(self) -> list[Plan]:
        """All runs, seed by seed, so that what is there of a study that was stopped holds whole seeds."""
        if self.data is None and not self.quick:
            raise ConfigError("study fusion needs data: --data FILE with pictures and names of one word, or --quick")
        given: dict[str, Any] = {
            name: getattr(self, name) for name in ("names", "codes", "steps", "batch", "evaluations")
        }
        given["precision"] = "bfloat16" if fast_bfloat16() else "float32"
        given |= QUICK if self.quick else {}
        data, cache = "" if self.quick else str(self.data), str(self.out / "cache")
        return [
            Plan(letter=letter, seed=seed, data=data, cache=cache, **given)
            for seed in range(self.seeds)
            for letter in TYPES
        ]

    def behind(self, plan: Plan) -> list[SpeechPlan]:
        """The runs of speech behind a run of pictures: what speech adds alone, and with what both share."""
        if self.speech is None and not self.quick:
            return []
        speech = "" if self.quick else str(self.speech)
        both = (False, True) if TYPES[plan.letter].shared else (False,)
        return [SpeechPlan(**asdict(plan), speech=speech, shared=shared) for shared in both]


def study_fusion(options: FusionOptions, say: Say = lambda text: None) -> dict[str, Any]:
    """Run what is missing, write OUT/fusion.json and OUT/fusion.html, and return what the former holds."""
    plans = options.plans()
    options.out.mkdir(parents=True, exist_ok=True)
    # Features are kept, so that no run pays for them; recordings first, whose mistakes are found at once.
    later = options.behind(plans[0])
    hearing = later[0].hearing(say) if later else None
    subject = plans[0].subject(say)
    results: list[dict[str, Any]] = []
    heard: list[dict[str, Any]] = []
    found: dict[str, Any] = {}
    shared = asdict(replace(plans[0], cache="", data=Path(options.data).name if options.data else ""))
    for index, plan in enumerate(plans):
        say(f"run {index + 1} of {len(plans)}: {TYPES[plan.letter].id}, seed {plan.seed}")
        pictures, speech = with_speech_behind(plan, options.behind(plan), folder_of(options.out, plan), say)
        results.append(pictures)
        heard += speech
        if len(results) % len(TYPES) == 0:  # a whole seed
            found = summary(subject, results, None if options.quick else options.data, shared)
            found["speech"] = hearing and speech_summary(
                subject, hearing, heard, None if options.quick else options.speech
            )
            found["verdicts"] = [] if options.quick else verdicts(found)
            write(options.out / "fusion.json", json.dumps(found, indent=1))
            write(options.out / "fusion.html", fusion_page.document(found))
            write(options.out / "fusion.md", fusion_page.markdown(found))
    return found


def folder_of(out: Path, plan: Plan) -> Path:
    return out / "runs" / f"{TYPES[plan.letter].id}-{plan.seed}"


def with_speech_behind(
    plan: Plan, later: list[SpeechPlan], folder: Path, say: Say
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The results of a run of pictures and of those of speech behind it; what the former learned is then dropped."""
    places = [folder / ("speech-shared" if each.shared else "speech") for each in later]
    pictures = result_of(plan, folder)
    if not all((place / RESULT).is_file() for place in places) and not (folder / LEARNED).is_file():
        say(f"{TYPES[plan.letter].id}, seed {plan.seed}, once more: what it learned was not kept")
        (folder / RESULT).unlink()
        pictures = result_of(plan, folder)
    speech = []
    for each, place in zip(later, places, strict=True):
        say(f"speech behind {TYPES[plan.letter].id}, seed {plan.seed}")
        speech.append(result_of(each, place))
    (folder / LEARNED).unlink(missing_ok=True)
    return pictures, speech


def result_of(plan: Plan, folder: Path) -> dict[str, Any]:
    """The result of a run, from its folder where it is there.  Raises ConfigError for one of another plan."""
    if (folder / RESULT).is_file():
        found: dict[str, Any] = json.loads((folder / RESULT).read_text())
        wanted = asdict(plan)
        if different := [name for name, value in wanted.items() if found.get(name) != value and name != "cache"]:
            name = different[0]
            raise ConfigError(
                f"{folder} holds a run with {name} {found.get(name)!r}, asked is {wanted[name]!r}; give another --out"
            )
        return found
    folder.mkdir(parents=True, exist_ok=True)
    (folder / PLAN).write_text(json.dumps(asdict(plan)))
    if not plan.data:
        return speech_run.run(plan, folder) if isinstance(plan, SpeechPlan) else fusion_run.run(plan, folder)
    module = speech_run if isinstance(plan, SpeechPlan) else fusion_run
    command = [sys.executable, "-m", module.__name__, str(folder)]
    done = subprocess.run(command, env={**os.environ, **KEEP_MEMORY, "OMP_NUM_THREADS": "1"}, check=False,
                          stderr=subprocess.PIPE, text=True)  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ConfigError(f"the run of {TYPES[plan.letter].id} with seed {plan.seed} failed: {last}")
    return json.loads((folder / RESULT).read_text())  # type: ignore[no-any-return]
