"""A narrow terminal shows every word: a table that does not fit becomes a line for each row."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from rich.table import Table

from operations.cli import demo
from operations.cli.printing import describe_order, out, print_table
from operations.demo.live import Telling
from operations.demo.scenes import conditional_scenes, scenes

Print = Callable[[int, Callable[[], None]], list[str]]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Print:
    """Give a way to print something on a terminal of so many columns; it returns the lines."""

    def print_at(width: int, what: Callable[[], None]) -> list[str]:
        monkeypatch.setattr(out, "_width", width)
        what()
        return capsys.readouterr().out.splitlines()

    return print_at


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_demos_table_is_readable(width: int, printed: Print) -> None:
    """At each width every order's title, request and end are there, in whole words."""
    played = [*scenes(), *conditional_scenes()]
    lines = printed(width, lambda: demo.print_scenes([(scene, scene.ends) for scene in played]))
    told = " ".join(" ".join(lines).replace("│", " ").replace("·", " ").split())
    assert [] == [line for line in lines if len(line) > max(width, 80)]
    assert [] == [word for scene in played for word in (*scene.title.split(), *scene.ends.split()) if word not in told]
    if width == 40:
        assert [] == [line for line in lines if len(line) > width]
        assert [] == [scene.title for scene in played if f"{scene.title} {scene.user} " not in told]


def test_what_is_left_out_or_wrong_is_seen(printed: Print) -> None:
    """What was told as announced, what this system is not set up for, and what is wrong look different."""
    title, announced, why = "a webhook", "500, 204", "left out: [/foo] no keys"
    told = [(announced, True), (why, True), ("nothing heard", False)]
    lines = printed(20, lambda: demo.print_tellings([Telling(title, "o", announced, *one) for one in told]))
    shown = [f"✓ {announced}", f"○ {why}", f"✗ nothing heard, not {announced}"]
    assert "whoever waits is told " + " ".join(f"- a webhook · {one}" for one in shown) == " ".join(
        " ".join(lines).split()
    )


def test_a_table_that_fits_stays_one(printed: Print) -> None:
    """A table stays a table where it fits; elsewhere empty cells are left out and no word is cut."""
    table = Table("asset", "available", "held", title="accounts of alice")
    table.add_row("BTC", "0.01", "")
    assert "━" in printed(80, lambda: print_table(table))[1]
    assert ["accounts of alice", "- BTC · 0.01"] == printed(20, lambda: print_table(table))


def test_no_id_is_cut(printed: Print) -> None:
    """Whoever reads an id must be able to type it: a table that has no room for it is printed as lines."""
    table = Table(*(f"column {number}" for number in range(6)))
    order_id = "01a22aa6-4281-778f-96c5-766cf7c80a76"
    table.add_row(order_id, *["a word"] * 5)
    assert any(order_id in line for line in printed(80, lambda: print_table(table)))
    wide = Table("order", "status")
    wide.add_row(order_id, "several words that may be broken between them, and are")
    lines = printed(60, lambda: print_table(wide))
    assert "━" in lines[0]
    assert any(order_id in line for line in lines)


def test_a_reason_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """A participant chooses its words; to the terminal's library, square brackets are its own."""
    reason = "no [/foo] [red]today"
    order = {"status": "FAILED", "reason_code": "ASSET_NOT_TRADABLE", "reason": reason}
    out.print(describe_order(order))
    assert f"FAILED ASSET_NOT_TRADABLE ({reason})\n" == capsys.readouterr().out
