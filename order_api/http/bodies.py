"""Bodies as bytes: reads a request's, within bounds of size and of time, and answers with one. It looks into none."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from order_api.http.limits import InFlight
from order_api.http.problems import Code, Problem

JSON: Final = "application/json"
BODY_PROBLEMS: Final = (*(Code.BODY_TOO_LARGE, Code.UNSUPPORTED_MEDIA_TYPE, Code.MALFORMED_JSON, Code.INVALID_REQUEST),)
"""What may be wrong with a body, for the declaration of every call that takes one."""
DRAINED_BYTES_MAX: Final = 1_048_576
"""A body that is too large is read up to here and thrown away: a client that is still sending would miss the answer."""
WITHIN_S: Final = 10.0
"""For the whole body: enough for a megabyte on a slow line."""
CLOSE: Final = {"connection": "close"}
"""The connection ends with the answer: nobody reads the rest of the body."""


async def read_json_body(request: Request, in_flight: InFlight, *, bytes_max: int) -> bytes:
    """Read a body of JSON. A client that sends slowly is not in flight meanwhile: it takes nobody's place."""
    kinds = request.headers.getlist("content-type")
    if len(kinds) != 1 or kinds[0].partition(";")[0].strip().lower() != JSON:
        raise Problem(Code.UNSUPPORTED_MEDIA_TYPE)
    with in_flight.waiting():
        return await read_body_bytes(request, bytes_max=bytes_max)


async def read_body_bytes(request: Request, *, bytes_max: int, within_s: float = WITHIN_S) -> bytes:
    """Read the body and keep no more of it than `bytes_max`; raise the problem of one that is too large or too slow."""
    body, size = bytearray(), 0
    try:
        async with asyncio.timeout(within_s):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= bytes_max:
                    body += chunk
                elif size > DRAINED_BYTES_MAX:
                    break
    except TimeoutError:
        detail = f"the body did not arrive within {within_s:g} s; nothing was done"
        raise Problem(Code.REQUEST_TIMEOUT, detail, headers=CLOSE) from None
    if size > bytes_max:
        raise Problem(Code.BODY_TOO_LARGE, f"at most {bytes_max} bytes are taken", headers=CLOSE)
    return bytes(body)


def json_answer(content: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Answer with JSON that is written already."""
    return Response(content, status, headers, JSON)
