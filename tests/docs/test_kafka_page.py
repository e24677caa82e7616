"""What docs/kafka.md says without any broker: the rights are those of the file, the example can be copied."""

from __future__ import annotations

import ast
import sys

import pytest

from contracts.topics import TOPICS
from operations.access.errors import WrongRequest
from operations.deployment.acls import Right, read
from tests.e2e.documented import EXAMPLE, ROOT, shown

ACLS = ROOT / "deploy" / "acls.txt"


def test_the_page_shows_the_rights_that_are_given() -> None:
    """The list of who may do what is deploy/acls.txt, to the letter."""
    assert ACLS.read_text() == shown("acls")


def test_the_rights_name_topics_that_exist() -> None:
    """Nobody is given a right to a topic that there is not."""
    named = {right.name for right in read(ACLS.read_text()) if right.may not in {"join", "number"}}
    assert named <= {topic.name for topic in TOPICS}


def test_each_topic_has_one_writer_besides_people_and_producers() -> None:
    """A topic's messages come from one service; only people with the command line may write there too, to replay.

    Requests come from whoever may ask; their reader writes again those that a locked row held up. The asset service is
    asked about orders by the orchestrator, and about previews by the API.
    """
    writers = {
        topic.name: {right.login for right in read(ACLS.read_text()) if right == (right.login, "write", topic.name)}
        for topic in TOPICS
    }
    for asked in ("orders.requests", "orders.cancels", "orders.changes"):
        assert {"api", "desk", "operator", "orchestrator"} == writers.pop(asked)
    assert {"api", "operator", "balance"} == writers.pop("holds.requests")
    assert {
        "orders.events": {"orchestrator"},
        "balance.commands": {"orchestrator"},
        "balance.replies": {"balance"},
        "assets.commands": {"api", "orchestrator"},
        "assets.replies": {"assets"},
        "assets.prices": {"assets"},
        "holds.events": {"balance"},
    } == {topic: logins - {"operator"} for topic, logins in writers.items()}


def test_a_list_of_rights_is_read_line_by_line() -> None:
    """Comments and empty lines are nothing; several names in a line are several rights."""
    text = "# nobody\n\ndesk read a b # two\ndesk join desk\n"
    assert [Right("desk", "read", "a"), Right("desk", "read", "b"), Right("desk", "join", "desk")] == read(text)


@pytest.mark.parametrize("line", ["desk", "desk write", "desk owns a"])
def test_a_line_that_is_no_right_is_refused(line: str) -> None:
    """A slip in the list is told with its line, before any right is given."""
    with pytest.raises(WrongRequest, match="line 2 must be 'login may what"):
        read(f"desk read a\n{line}\n")


def test_the_python_example_needs_nothing_of_ours() -> None:
    """Another team can copy the file: beside the standard library it imports aiokafka alone."""
    imported = set()
    for node in ast.walk(ast.parse(EXAMPLE.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).split(".")[0])
    assert {"aiokafka"} == imported - sys.stdlib_module_names
