"""The routes of prices, assets and accounts, each with what the document says of it.

What may be kept, and for how long, stands in each answer: a price for a second, rules until the server says that they
have changed, a balance never.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from contracts import codec
from contracts.vocabulary import NAME_PATTERN, NAME_RULE
from order_api.http.bodies import json_answer
from order_api.http.problems import BrokenRule, Code, Problem, invalid
from order_api.http.request_headers import knows
from order_api.http.tokens import Caller
from order_api.market import examples
from order_api.market.prices import LatestPrices
from order_api.market.store import MarketStore
from order_api.market.views import (
    AccountList,
    AssetList,
    MarketAsset,
    MarketPrice,
    PriceList,
    etag_of_body,
    etag_of_price,
)
from order_api.openapi.declarations import Parameter, Returns, operation
from order_api.orders.description.parts import NAME, READERS, USER_ID
from order_api.orders.requests import user_of

TAG: Final = "market"
KEPT_S: Final = 1
"""How long a client may show a price without asking again."""
ASSET_ID: Final = Parameter("asset_id", "path", "The asset's id.", NAME, examples.ASSET_ID)
IF_NONE_MATCH: Final = Parameter(
    "If-None-Match",
    "header",
    "The ETag that the caller has: where it is still the same, the answer is a `304`.",
    {"type": "string"},
    '"412"',
)
_NAME: Final = re.compile(NAME_PATTERN)
_TAGGED: Final = ("ETag", "Cache-Control")
_UNCHANGED: Final = Returns("`If-None-Match` names the `ETag`: the caller has it.", headers=_TAGGED)
_PRICED: Final = {"cache-control": f"max-age={KEPT_S}"}
_ASKED_EACH_TIME: Final = {"cache-control": "private, no-cache", "vary": "authorization"}
_NEVER_KEPT: Final = {"cache-control": "no-store"}


class MarketRoutes:
    """The endpoints of the market. They only show: whether an order fits is decided when it is checked."""

    def __init__(self, prices: LatestPrices, store: MarketStore) -> None:
        self._prices = prices
        self._store = store

    @operation(
        "GET",
        "/prices",
        "listPrices",
        {200: Returns("The prices.", PriceList, examples.prices, _TAGGED), 304: _UNCHANGED},
        description="Every process has them in memory, so one process may be a moment ahead of another: of two answers"
        " the higher `sequence` is newer. `as_of` says how old a price is. A script that wants each change follows"
        " `GET /events?prices=`.",
        parameters=(IF_NONE_MATCH,),
        scopes=READERS,
        problems=(Code.INVALID_REQUEST,),
        tag=TAG,
    )
    async def prices(self, request: Request, _caller: Caller) -> Response:
        """List the newest prices."""
        _takes(request)
        prices, etag = await self._prices.all()
        return _answer(request, prices, etag, _PRICED)

    @operation(
        "GET",
        "/prices/{asset_id}",
        "readPrice",
        {200: Returns("The price.", MarketPrice, examples.price, _TAGGED), 304: _UNCHANGED},
        description="Its `ETag` is the `sequence`.",
        parameters=(ASSET_ID, IF_NONE_MATCH),
        scopes=READERS,
        problems=(Code.ASSET_NOT_FOUND, Code.INVALID_REQUEST),
        tag=TAG,
    )
    async def price(self, request: Request, _caller: Caller) -> Response:
        """Read the newest price of an asset."""
        _takes(request)
        price = await self._prices.one(_asset_id(request))
        if price is None:
            raise Problem(Code.ASSET_NOT_FOUND)
        return _answer(request, price, etag_of_price(price), _PRICED)

    @operation(
        "GET",
        "/assets",
        "listAssets",
        {200: Returns("The assets.", AssetList, examples.assets, _TAGGED), 304: _UNCHANGED},
        description="With the rules by which orders are checked. Rules may change between this answer and an order: the"
        " order is checked by those of its own moment.",
        parameters=(IF_NONE_MATCH,),
        scopes=READERS,
        problems=(Code.INVALID_REQUEST,),
        tag=TAG,
    )
    async def assets(self, request: Request, _caller: Caller) -> Response:
        """List the assets that orders may name."""
        _takes(request)
        return _answer(request, AssetList(await self._store.assets()), None, _ASKED_EACH_TIME)

    @operation(
        "GET",
        "/assets/{asset_id}",
        "readAsset",
        {200: Returns("The asset.", MarketAsset, examples.asset, _TAGGED), 304: _UNCHANGED},
        parameters=(ASSET_ID, IF_NONE_MATCH),
        scopes=READERS,
        problems=(Code.ASSET_NOT_FOUND, Code.INVALID_REQUEST),
        tag=TAG,
    )
    async def asset(self, request: Request, _caller: Caller) -> Response:
        """Read an asset's rules, and whether it trades."""
        _takes(request)
        found = await self._store.assets(_asset_id(request))
        if not found:
            raise Problem(Code.ASSET_NOT_FOUND)
        return _answer(request, found[0], None, _ASKED_EACH_TIME)

    @operation(
        "GET",
        "/accounts",
        "listAccounts",
        {200: Returns("The accounts.", AccountList, examples.accounts, _TAGGED), 304: _UNCHANGED},
        description="Read from the ledger each time, and kept by nobody. What is available now may be held a moment"
        " later: whether an order can pay is decided when its money is held.",
        parameters=(USER_ID, IF_NONE_MATCH),
        scopes=READERS,
        problems=(Code.OTHER_USER, Code.INVALID_REQUEST),
        tag=TAG,
    )
    async def accounts(self, request: Request, caller: Caller) -> Response:
        """List a user's accounts."""
        _takes(request, "user_id")
        user_id = user_of(request, caller)
        if not caller.sees(user_id):
            raise Problem(Code.OTHER_USER)
        return _answer(request, AccountList(user_id, await self._store.accounts(user_id)), None, _NEVER_KEPT)


def _asset_id(request: Request) -> str:
    """Read the asset's id in the path; text that can be none is an unknown asset."""
    asset_id: str = request.path_params["asset_id"]
    if _NAME.fullmatch(asset_id) is None:
        raise Problem(Code.ASSET_NOT_FOUND, f"an asset id is {NAME_RULE}")
    return asset_id


def _takes(request: Request, *names: str) -> None:
    """Refuse parameters that a call does not have: one that is misspelt would be left out in silence."""
    if unknown := [name for name in request.query_params if name not in names]:
        rule = f"is not a parameter of this call; these are: {', '.join(names) or 'none'}"
        raise invalid(*(BrokenRule(name, rule) for name in unknown))


def _answer(request: Request, body: msgspec.Struct, etag: str | None, headers: dict[str, str]) -> Response:
    """Answer with a body, or with 304 when the client has it. Without a tag of its own a body has a weak one."""
    content = codec.encode(body)
    tag = etag or etag_of_body(content)
    headers = {**headers, "etag": tag if etag else f"W/{tag}"}
    if knows(request.headers.getlist("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    return json_answer(content, 200, headers)
