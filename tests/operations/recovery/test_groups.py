"""The groups that go back are those of the services, with all of their topics."""

from __future__ import annotations

from operations.recovery.groups import GROUPS
from order_saga.triggers.process import TriggerHandler
from order_saga.worker.process import ChangeHandler, SagaHandler
from participants.assets.service import NAME as ASSETS
from participants.assets.service import AssetHandler
from participants.balance.hold_handler import HoldHandler
from participants.balance.service import NAME as BALANCE
from participants.balance.service import participant
from projections.webhooks.handler import WebhookHandler
from projections.webhooks.service import NAME as WEBHOOKS


def test_every_group_is_known_with_its_topics() -> None:
    """A topic that a service reads is read again, or named as one that is not."""
    read = {
        "orchestrator": SagaHandler.topics,
        "cancels": ChangeHandler.topics,
        "triggers": TriggerHandler.topics,
        BALANCE: participant().topics,
        "holds": HoldHandler.topics,
        ASSETS: AssetHandler.topics,
        WEBHOOKS: WebhookHandler.topics,
    }
    known = {group: {topic.name for topic in (*again, *others)} for group, (again, others) in GROUPS.items()}
    assert {group: set(topics) for group, topics in read.items()} == known
