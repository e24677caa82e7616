"""What operators meet when something can't be done: one tree of errors, each with a message of one line.

    Trouble              it can't be done, or it went wrong
    ├── WrongRequest     it can be done when it is asked for otherwise
    └── OutcomeUnknown   it may have been done all the same

The command line ends with status 2 for a `WrongRequest` and with 1 for any other `Trouble`.
"""

from __future__ import annotations


class Trouble(Exception):  # noqa: N818 - the word that exit status 1 is documented by
    """An operation can't do what was asked."""


class WrongRequest(Trouble):
    """The request itself is wrong: a name, a number or a setting that can't be, or a choice that is missing."""


class OutcomeUnknown(Trouble):
    """The request was sent and its answer did not come: whether it was carried out is not known."""
