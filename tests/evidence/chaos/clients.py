"""Clients of a run: they hold streams of users' orders at the API's processes, and take their webhooks."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from typing import Any, Final

import httpx2
from standardwebhooks import Webhook, WebhookVerificationError

from contracts.webhooks import secret_text
from tests.e2e.followers import Follower, SocketFollower
from tests.e2e.system import eventually
from tests.e2e.webhooks import tell
from tests.evidence.chaos.arena import Arena
from tests.evidence.chaos.watched import Hooked, Watch, Watched, Way
from tests.evidence.chaos.witness import Wire
from tests.projections.webhooks.receivers import Answering, Received, answer, receiving

SOCKETS: Final = 4
"""Every fourth user follows by a WebSocket, too."""
EVERY: Final = 4
"""Every fourth user wants every version by webhook."""
AHEAD: Final = 9
"""Every ninth user's client by server-sent events comes back with an id that no database gave."""
FUTURE: Final = "t9000000000000000"
BEGUN_WITHIN_S: Final = 90.0
SEEN_WITHIN_S: Final = 120.0
"""A process that was killed has leased what it was to send for a minute."""
LOOK_S: Final = 10.0


class _Looks(Follower):
    """Keeps all that it sees. After a gap it reads what the gap names, and each order that it believes to be open."""

    def __init__(self, watch: Watch, token: str, urls: Sequence[str], *, ahead: bool = False) -> None:
        """`ahead`: come back with an id of the future, which is always a gap."""
        super().__init__(watch.user_id, token, urls)
        self.watch = watch
        self._ahead = ahead
        self._open: set[str] = set()
        self._live = False
        self._missing = ""
        """The list that a gap names, until it is read."""

    async def read_one(self) -> None:
        self._live, self._missing = False, ""
        self.last_id = FUTURE if self._ahead and self.last_id else self.last_id
        await super().read_one()

    async def take(self, kind: str, event_id: str | None, data: Any) -> None:
        if kind == "order":
            self._note(data["order"], Way.LIVE if self._live else Way.FIRST)
        elif kind == "gap":
            self._missing = data["list"]
        elif kind == "snapshot-end":
            self._live = True
            self.watch.streams += 1
        if self._live and self._missing:  # what a stream shows first was read before its list is
            await self._look(self._missing)
            self.watch.gaps += 1
            self._missing = ""
        self.last_id = event_id or self.last_id  # after a gap was looked up: who fails there is told of it again

    def _note(self, order: dict[str, Any], way: Way) -> None:
        self.watch.note(order, way)
        ended = order["status"] in {"COMPLETED", "CANCELLED", "FAILED"}
        (self._open.discard if ended else self._open.add)(order["order_id"])

    async def _look(self, address: str) -> None:
        async with httpx2.AsyncClient(base_url=self.url, timeout=LOOK_S, headers=self.headers) as http:
            cursor: dict[str, str] = {}
            while True:
                page = (await http.get(httpx2.URL(address).copy_merge_params(cursor))).raise_for_status().json()
                for order in page["orders"]:
                    self._note(order, Way.LISTED)
                if not page["has_more"]:
                    break
                cursor = {"cursor": page["next_cursor"]}
            for order_id in list(self._open):
                self._note((await http.get(f"/orders/{order_id}")).raise_for_status().json(), Way.LISTED)


class _SocketLooks(_Looks, SocketFollower):
    by = SocketFollower.by


class Clients:
    """All clients, and what they were told."""

    def __init__(self, watched: Watched, followers: Sequence[Follower]) -> None:
        self.watched = watched
        self._followers = followers

    async def follow(self) -> None:
        """Follow for ever; a fault of a client is the caller's."""
        async with asyncio.TaskGroup() as group:
            for one in self._followers:
                group.create_task(one.follow())

    async def begun(self) -> None:
        """Wait until every client has a stream that is live."""

        async def all_live() -> bool:
            return all(watch.streams for watch in self.watched.watches)

        await eventually(all_live, "every client has a stream", within_s=BEGUN_WITHIN_S)

    async def have_seen(self, wire: Wire) -> None:
        """Wait until they have seen the last version of every order, or too long; what is missing, the checker says."""
        watched, last, wanted = self.watched, {}, set()
        for order_id, versions in wire.told.items():
            version = max(versions)
            user_id = json.loads(versions[version][0].value)["order"]["user_id"]
            last[order_id] = user_id, version
            if user_id in watched.hooks:
                wanted |= {f"{order_id}:v{one}" for one in (versions if user_id in watched.every else (version,))}

        async def all_seen() -> bool:
            came = {one.webhook_id for one in watched.hooked}
            return wanted <= came and not any(
                user_id == watch.user_id and watch.highest.get(order_id, 0) < version
                for order_id, (user_id, version) in last.items()
                for watch in watched.watches
            )

        with contextlib.suppress(AssertionError):
            await eventually(all_seen, "every client has seen every end", within_s=SEEN_WITHIN_S, poll_s=0.5)


@asynccontextmanager
async def clients(
    one: Arena, users: Sequence[str], token: Callable[[str], str], *, apis: Sequence[str] = ()
) -> AsyncIterator[Clients]:
    """Make an endpoint for each user, and clients that are yet to follow. `token` gives a user's token.

    `apis`: the addresses that clients know, where these are not those of the API's processes.
    """
    watched = Watched()
    urls = list(apis) or [f"http://127.0.0.1:{port}" for port in one.ports("api")]
    followers: list[Follower] = []
    async with receiving(_taking(watched)) as receiver:
        for number, user_id in enumerate(users):
            for kind in (_Looks, _SocketLooks) if number % SOCKETS == 0 else (_Looks,):
                watched.watches.append(Watch(user_id, kind.by))
                turned = urls[number % len(urls) :] + urls[: number % len(urls)]
                followers.append(kind(watched.watches[-1], token(user_id), turned, ahead=number % AHEAD == 1))
            watched.hooks.add(user_id)
            watched.every |= {user_id} if number % EVERY == 1 else set()
            every = user_id in watched.every
            await tell(one.stack, user_id, f"{receiver.url}/{user_id}", every_version=every, secret=_secret(user_id))
        yield Clients(watched, followers)


def _taking(watched: Watched) -> Answering:
    """Verify each webhook with the secret of the user that its address names, and say no to one that does not."""
    yes, no = answer("204 No Content"), answer("400 Bad Request")

    async def take(received: Received, writer: asyncio.StreamWriter) -> None:
        user_id, fault = received.target.rpartition("/")[2], None
        try:
            Webhook(secret_text(_secret(user_id))).verify(received.body, received.headers)
        except (WebhookVerificationError, ValueError) as error:
            fault = str(error)
        watched.hooked.append(Hooked(user_id, received.headers.get("webhook-id", ""), received.body, fault))
        await (yes if fault is None else no)(received, writer)

    return take


def _secret(user_id: str) -> bytes:
    return sha256(user_id.encode()).digest()
