"""Bring the database to a revision, up or down, with a login for each service."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from alembic.util import CommandError

import migrations
from operations.access.database import naming
from operations.access.errors import WrongRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

HEAD = "head"


class Moved(NamedTuple):
    """The revision before and after (None: nothing of ours), and the logins that were made or updated."""

    before: str | None
    after: str | None
    logins: list[str]


def migrate(database_url: str, revision: str, passwords: Mapping[str, str], prefix: str) -> Moved:
    """Migrate as the database's owner; logins are made or updated at the newest revision only.

    Raises `WrongRequest`, with nothing changed, for a revision that does not exist and for a role that is not ours.
    It starts an event loop of its own: call it from where none is running.
    """
    if not revision:
        raise WrongRequest("nothing was changed: --revision names no revision; 'head' is the newest")
    logins = passwords if revision == HEAD else {}
    try:
        with naming(database_url):
            before = migrations.current(database_url)
            if _is_down(revision, before):
                migrations.downgrade(database_url, revision)
            else:
                migrations.upgrade(database_url, revision, logins, prefix)
            after = migrations.current(database_url)
    except ValueError as error:
        raise WrongRequest(f"nothing was changed: {error}") from None
    except CommandError as error:
        raise WrongRequest(f"nothing was changed: --revision is {revision!r}: {error}") from None
    return Moved(before, after, [prefix + name for name in logins])


def _is_down(revision: str, before: str | None) -> bool:
    """Tell whether a revision, as alembic writes it (`head`, `base`, `-1`, `+1`, a name), is older than the one before.

    A name that nobody knows is no way down: alembic refuses it by name, either way.
    """
    if revision == "base" or revision.startswith("-"):
        return True
    known = migrations.known()
    return revision in known and before in known and known.index(revision) < known.index(before)
