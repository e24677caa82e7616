"""Each alert fires when it should, keeps quiet when it should, and leads to a page that exists: by promtool."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.deploy.monitoring.cases import FIRING, QUIET, Case
from tests.deploy.monitoring.rules import ALERTS, OF_ALL, RULES, anchors, expressions, known, used
from tests.support.project import ROOT

NAMES: Final = {
    *("OrdersParked", "OrdersOverdue", "OutboxNotSent", "DeadLetters", "ConsumersLate", "AuditFinding", "AuditStale"),
    *("ApiErrorBudgetBurns", "OrderErrorBudgetBurns", "FollowersLost"),
    *("ParticipantPaused", "ProcessesMissing", "TokenKeysOld"),
}
SECTION: Final = "docs/operating.md#"


def _promtool(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *words], capture_output=True, text=True, check=False)  # noqa: S603, S607 - our own words


def _judge(case: Case, expected: list[Mapping[str, Any]], folder: Path) -> subprocess.CompletedProcess[str]:
    """Have promtool play the samples and compare what fires with what is expected."""
    test = {
        "interval": "15s",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": [{"eval_time": case.at, "alertname": case.alert, "exp_alerts": expected}],
    }
    file = folder / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "15s", "tests": [test]}))
    return _promtool("test", "rules", str(file))


@pytest.mark.promtool
@pytest.mark.parametrize("case", FIRING.values(), ids=FIRING.keys())
def test_an_alert_fires(case: Case, tmp_path: Path) -> None:
    """With its severity, the release, what it is about, and a summary that names it."""
    rule = RULES[case.alert]
    assert case.fires is not None
    expected = {
        "exp_labels": {**rule["labels"], **case.fires},
        "exp_annotations": {**rule["annotations"], "summary": case.summary},
    }
    judged = _judge(case, [expected], tmp_path)
    assert judged.returncode == 0, judged.stdout + judged.stderr


@pytest.mark.promtool
@pytest.mark.parametrize("case", QUIET.values(), ids=QUIET.keys())
def test_an_alert_keeps_quiet(case: Case, tmp_path: Path) -> None:
    """Nothing fires for what is as it should be, or passes by itself."""
    judged = _judge(case, [], tmp_path)
    assert judged.returncode == 0, judged.stdout + judged.stderr


@pytest.mark.promtool
def test_prometheus_takes_the_rules_and_every_query_of_the_dashboards(tmp_path: Path) -> None:
    """The file is one of rules, and each expression parses."""
    rules = [{"record": f"query_{number}", "expr": text} for number, text in enumerate(expressions())]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    checked = _promtool("check", "rules", "--lint-fatal", str(ALERTS), str(file))
    assert (0, True) == (checked.returncode, len(rules) > 40), checked.stderr


def test_every_alert_is_shown_to_fire_and_to_keep_quiet() -> None:
    """Each of them both ways."""
    assert (NAMES, NAMES) == ({case.alert for case in FIRING.values()}, {case.alert for case in QUIET.values()})
    assert NAMES == RULES.keys()


@pytest.mark.parametrize("alert", RULES)
def test_an_alert_leads_to_a_section_that_exists(alert: str) -> None:
    """Its runbook is a heading of the page on operating, and that page lists the alert with its severity."""
    rule, page = RULES[alert], ROOT / "docs" / "operating.md"
    url = rule["annotations"]["runbook_url"]
    assert url.startswith(SECTION)
    assert url.removeprefix(SECTION) in anchors(page)
    (row,) = (line for line in page.read_text().splitlines() if line.startswith(f"| `{alert}` |"))
    assert (rule["labels"]["severity"], True) == (row.split(" | ")[1], f"(#{url.removeprefix(SECTION)})" in row)
    assert {"severity", "release"} == rule["labels"].keys()
    assert rule["labels"]["severity"] in {"page", "ticket"}


def test_every_metric_in_an_expression_is_one_that_there_is() -> None:
    """With the labels that it is chosen and grouped by: a misspelled metric would never fire and draw nothing."""
    there = known()
    for expression in expressions():
        metrics, grouped = used(expression)
        assert metrics, expression
        assert [] == [name for name in metrics if name not in there], expression
        assert grouped <= {*OF_ALL, *chain.from_iterable(there[name] for name in metrics)}, expression
        for name, chosen in metrics.items():
            assert chosen <= there[name] | OF_ALL, expression
            assert "release" in chosen, "the figures of several systems would be added up"
