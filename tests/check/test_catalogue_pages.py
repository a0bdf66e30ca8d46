"""docs/catalogue.md and the pages of single systems, written from one real result."""

from typing import Any

import pytest

from polymodal import systems
from polymodal.check import engine
from polymodal.check.page import pages


@pytest.fixture(scope="module")
def result() -> Any:
    return engine.check(systems.get("tigerbot"))


def test_the_table_leads_to_a_page_with_the_numbers_of_its_row(result: Any) -> None:
    system = systems.get("tigerbot")
    written = pages([system], [result])

    assert list(written) == ["", "systems/tigerbot.md"]
    table, page = written.values()
    error = result["parity"]["max_abs_error"]
    (row,) = [line for line in table.splitlines() if line.startswith("| [")]
    assert row.startswith("| [tigerbot](systems/tigerbot.md) | - | yes | yes | yes | yes | yes |")
    assert f"| {error:.1e} |" in row and row.endswith("| transformers |")
    assert "## Exceptions" not in table
    assert f"{result['build']['variants'][0]['parameters']:,} parameters" in page


def test_what_was_not_checked_stands_under_the_table(result: Any) -> None:
    system = systems.get("tigerbot")
    changed = dict(result)
    changed["recipe"] = {"ok": None, "why": "the pictures were not fetched"}
    changed["exceptions"] = ["one layout is read from the paper"]
    table = pages([system], [changed])[""]

    assert "| ? |" in table
    assert "- tigerbot: one layout is read from the paper" in table
    assert "- tigerbot: recipe not checked: the pictures were not fetched" in table
