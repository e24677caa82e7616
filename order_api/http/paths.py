"""Reads an id in the path of a request. Pure."""

from __future__ import annotations

import re
from typing import Final
from uuid import UUID

from starlette.requests import Request

from order_api.http.problems import Code, Problem

_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def id_in_path(request: Request, name: str, what: str, unknown: Code) -> UUID:
    """Read the id in the path; of one that is none, as in "an order id", raise the problem of an unknown one."""
    text = request.path_params[name]
    if _UUID.fullmatch(text) is None:
        raise Problem(unknown, f"{what} is a UUID in its canonical text, in lower case")
    return UUID(text)
