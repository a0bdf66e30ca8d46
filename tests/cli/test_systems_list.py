"""`polymodal systems` filters, groups and draws the catalogue; words that no system has are refused."""

from __future__ import annotations

import pytest

from polymodal import systems
from polymodal.check import proved
from polymodal.check.columns import ORACLES, PARTS


def ids(outcome):
    assert outcome.code == 0, outcome.err
    return [each["id"] for each in outcome.json]


def test_filters_are_those_of_the_records(polymodal):
    found = ids(polymodal("systems", "--input", "audio", "--fusion", "c", "--year", "2023-2024", "--json"))
    assert found == [
        each.id
        for each in map(systems.get, systems.ids())
        if "audio" in each.inputs and "C" in each.fusion and 2023 <= each.year <= 2024
    ]
    assert "qwen-audio" in found and "llava" not in found
    assert "clip" in ids(polymodal("systems", "--fusion", "none", "--json"))
    assert "next-gpt" in ids(polymodal("systems", "--line", "Any to Any", "--output", "video", "--json"))


def test_what_is_proved_is_what_the_last_run_saw(polymodal):
    rows = proved.proved()
    assert set(rows) <= set(systems.ids()) and all({*PARTS, "error", "oracle"} == set(row) for row in rows.values())
    found = ids(polymodal("systems", "--proved", "parity", "--oracle", "paper", "--json"))
    assert found == [name for name in systems.ids() if name in rows and rows[name]["oracle"] == "paper"]
    assert all(row["oracle"] in ORACLES for row in rows.values())


def test_a_run_is_kept_as_it_was():
    nothing = {"ok": None, "why": "no case generates"}
    result = {part: {"ok": True} for part in PARTS} | {"id": "x", "cache": nothing, "headline": {"ok": False}}
    result["parity"] = {"ok": True, "max_abs_error": 2e-6, "oracle": "transformers XModel"}
    text = proved.document(proved.rows_of([result]))
    assert '"cache": "-"' in text and '"headline": false' in text and '"oracle": "transformers"' in text


def test_groups_have_headings(polymodal):
    shown = polymodal("systems", "--group-by", "line").out
    assert shown.index("foundations (") < shown.index("understanding (") < shown.index("any to any (")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--fusion", "Z"), "there are A, B, C, D"),
        (("--output", "smell"), "no system has output 'smell'"),
        (("--year", "23"), "expected one as 2023"),
        (("--year", "2024-2021"), "comes after"),
        (("--proved", "beauty"), "no column of a check"),
        (("--oracle", "delphi"), "no kind of oracle"),
        (("--group-by", "size"), "grouped by fusion, year"),
        (("--svg", "map.pdf"), ".svg or .png"),
        (("--json", "--svg", "map.svg"), "two answers"),
    ],
)
def test_wrong_words_are_one_line(polymodal, arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outcome = polymodal("systems", *arguments)
    assert outcome.code == 2 and words in outcome.err and outcome.err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_the_map_is_drawn_of_what_was_asked_for(polymodal, tmp_path):
    target = tmp_path / "map.svg"
    assert polymodal("systems", "--fusion", "D", "--svg", target).code == 0
    text = target.read_text()
    assert "Chameleon" in text and "Flamingo" not in text
