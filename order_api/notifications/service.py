"""What users ask of their notifications. It judges addresses, makes and seals codes, and stores; a process sends."""

from __future__ import annotations

import base64
import hmac
import secrets
from datetime import datetime
from typing import Final, NamedTuple
from uuid import UUID

from prometheus_client import Counter

from contracts.webhooks import ENDPOINTS_MAX
from order_api.http.problems import BrokenRule, Code, Problem, invalid
from order_api.http.tokens import Caller
from order_api.notifications.preferences import (
    ConfirmBody,
    Notification,
    NotificationPreferences,
    NotificationsTested,
    PreferencesBody,
    faults,
    wanted,
    zones,
)
from order_api.notifications.store import CODES_MAX, CODES_OF_USER_MAX, Store, TooManyChannelsError, TooManyCodesError
from order_api.orders.audit_trail import Origin
from saga_kit.runtime.sealing import NotSealed, Seal

CODE_BYTES: Final = 10
RETRY_TOMORROW_S: Final = 86_400


class Place(NamedTuple):
    """Where a notification stands in the log."""

    created_at: datetime
    endpoint_id: UUID
    event_id: str


class NotificationService:
    """Serves callers who are known; raises `Problem` for what it refuses.

    `seal`: None where no keys are set, so that no code can be made. `anywhere`: push services may be at private
    addresses, for tests. `email`, `push_key`: what the process that sends is set up for. `asked` counts what was asked
    for, by action and by outcome: done, or refused to an address that had its codes or for a code that is none.
    """

    def __init__(
        self, store: Store, seal: Seal | None, asked: Counter, *, anywhere: bool, email: bool, push_key: str | None
    ) -> None:
        self._store = store
        self._asked = asked
        self._seal = seal
        self._anywhere = anywhere
        self._email = email
        self._push_key = push_key

    async def preferences(self, user_id: str, caller: Caller) -> NotificationPreferences:
        """Return how a user is told."""
        self._check(user_id, caller)
        return NotificationPreferences(await self._store.channels(user_id), self._email, self._push_key)

    async def change(self, body: PreferencesBody, caller: Caller, origin: Origin) -> NotificationPreferences:
        """Make a user's preferences what is asked for."""
        user_id = body.user_id or caller.user_id
        self._check(user_id, caller)
        if self._seal is None:
            raise Problem(Code.WEBHOOKS_OFF)
        await self._judge(body)
        of_webhooks = (None, None) if body.webhook is None else (body.webhook.quiet_hours, body.webhook.notional_min)
        try:
            await self._store.replace(user_id, wanted(body), of_webhooks, self._seal.seal(_new_code().encode()), origin)
        except TooManyChannelsError:
            raise Problem(Code.TOO_MANY_WEBHOOKS, f"a user has at most {ENDPOINTS_MAX}") from None
        except TooManyCodesError:
            self._asked.labels("change", "refused").inc()
            detail = (
                f"a mailbox gets {CODES_MAX} codes a day at most, and a user asks for {CODES_OF_USER_MAX}; nothing was"
                " changed"
            )
            raise Problem(Code.RATE_LIMITED, detail, headers={"retry-after": str(RETRY_TOMORROW_S)}) from None
        self._asked.labels("change", "done").inc()
        return await self.preferences(user_id, caller)

    async def _judge(self, body: PreferencesBody) -> None:
        broken = faults(body, anywhere=self._anywhere)
        if body.email is not None and not self._email:
            broken.append(BrokenRule("email", "must be null: e-mails are not set up here"))
        if body.push is not None and self._push_key is None:
            broken.append(BrokenRule("push", "must be null: push messages are not set up here"))
        if named := zones(body):
            unknown = await self._store.unknown_zones(set(named.values()))
            rule = "its time_zone must be the name of a zone, such as Europe/Zurich"
            broken += [BrokenRule(name, rule, zone) for name, zone in named.items() if zone in unknown]
        if broken:
            raise invalid(*broken)

    async def confirm(self, body: ConfirmBody, caller: Caller, origin: Origin) -> NotificationPreferences:
        """Take the code of an e-mail."""
        user_id = body.user_id or caller.user_id
        self._check(user_id, caller)
        if self._seal is None:
            raise Problem(Code.WEBHOOKS_OFF)
        given = plain_code(body.code).encode()
        for one in await self._store.unconfirmed(user_id):
            if any(self._is_code(given, sealed) for sealed in one.sealed):
                await self._store.confirm(one.endpoint_id, user_id, origin)
                self._asked.labels("confirm", "done").inc()
                return await self.preferences(user_id, caller)
        self._asked.labels("confirm", "refused").inc()
        raise invalid(BrokenRule("code", "must be the code of the newest e-mail, of the last 24 hours"))

    def _is_code(self, given: bytes, sealed: str) -> bool:
        """Tell whether this is the code; one whose key is gone is none, and the user asks for another."""
        assert self._seal is not None  # noqa: S101 - asked before
        try:
            code = plain_code(self._seal.open(sealed).decode()).encode()
        except NotSealed:
            return False
        return hmac.compare_digest(given, code)

    async def test(self, user_id: str, caller: Caller, origin: Origin) -> NotificationsTested:
        """Have a test sent to a user's channels."""
        self._check(user_id, caller)
        tested = NotificationsTested(await self._store.test(user_id, origin))
        self._asked.labels("test", "done").inc()
        return tested

    async def log(self, user_id: str, caller: Caller, after: Place | None, limit: int) -> list[Notification]:
        """Return what a user was told, newest first."""
        self._check(user_id, caller)
        return await self._store.log(user_id, after, limit)

    def _check(self, user_id: str, caller: Caller) -> None:
        if not caller.acts_for(user_id):
            raise Problem(Code.OTHER_USER)


def _new_code() -> str:
    """Make a code of 80 random bits in four groups, so that nobody guesses one in the day that it counts."""
    text = base64.b32encode(secrets.token_bytes(CODE_BYTES)).decode()
    return "-".join(text[at : at + 4] for at in range(0, len(text), 4))


def plain_code(text: str) -> str:
    """Read a code as a person may type it: in small letters, without or with other gaps."""
    return "".join(one for one in text.upper() if one.isascii() and one.isalnum())
