"""The commands `price`, `prices`, `market` and `feed`: the market of the reference asset service."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from operations.access.errors import Trouble, WrongRequest
from operations.access.system import database, kafka_settings
from operations.cli.options import OPERATING, By, Json, Yes, finite
from operations.cli.printing import err, out, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Callable

    from contracts.assets import Trading

Asset = Annotated[str, typer.Argument(metavar="ASSET", help="BTC, ETH, ...")]
Reason = Annotated[str, typer.Option(help="Why, for people.")]

price_app = typer.Typer(no_args_is_help=True)
market_app = typer.Typer(no_args_is_help=True)
feed_app = typer.Typer(no_args_is_help=True)


class PriceGroup(typer.core.TyperGroup):
    """`price ASSET PRICE` is short for `price set ASSET PRICE`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Take a word that is no command for an asset."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["set", *args])


def register(app: typer.Typer) -> None:
    """Add these commands."""
    prices_of = "Set an asset's price, or let it move: 'price BTC 51000', 'price walk BTC', 'price script BTC FILE'."
    app.add_typer(price_app, name="price", cls=PriceGroup, help=prices_of, rich_help_panel=OPERATING)
    app.command(rich_help_panel=OPERATING)(prices)
    app.add_typer(
        market_app, name="market", help="Halt, close or open an asset; give it sessions.", rich_help_panel=OPERATING
    )
    app.add_typer(feed_app, name="feed", help="Check the feed of prices, or reset it.", rich_help_panel=OPERATING)


@price_app.command("set")
def set_price(
    asset: Asset,
    price: Annotated[str, typer.Argument(metavar="PRICE", help="A multiple of the asset's tick.")],
    external: Annotated[
        bool, typer.Option(help="Nobody confirms it afterwards: it is stale unless it is set again.")
    ] = False,
    by: By = "operator",
) -> None:
    """Set an asset's price. It stands still then, whatever moved it before, and stays fresh.

    Orders that rest at a level which it reaches are filled at this price. The word 'set' may be
    left out.

    Example: order-saga price set BTC 51000
    """
    from operations.market.prices import read_price
    from operations.market.prices import set_price as work
    from operations.repair.runs import name_run

    value, run = read_price("PRICE", price), name_run("", by)

    async def go() -> int:
        async with database() as engine:
            return await work(engine, asset, value, run, external=external)

    out.print(f"{asset} {price}, sequence {asyncio.run(go())}", markup=False)


@price_app.command()
def walk(
    asset: Asset,
    per_second: Annotated[float, typer.Option(callback=finite, help="Changes a second.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**53, help="The same seed makes the same path.")] = 1,
    step: Annotated[int, typer.Option(min=1, help="Ticks of a change, at most.")] = 1,
    floor: Annotated[str, typer.Option(help="The lowest price. Default: a tenth below now.")] = "",
    ceiling: Annotated[str, typer.Option(help="The highest price. Default: a tenth above now.")] = "",
    by: By = "operator",
) -> None:
    """Let an asset's price walk at random from where it is, until it is set again. It stands still in a halt.

    Example: order-saga price walk BTC --per-second 50 --seed 7
    """
    from contracts.decimals import format_decimal
    from operations.market.prices import begin_walk, read_price
    from operations.repair.runs import name_run

    if not 0 < per_second <= 10_000:  # noqa: PLR2004 - as `Walk` has it
        raise WrongRequest("--per-second must be more than 0, at most 10000")
    low = read_price("--floor", floor) if floor else None
    high = read_price("--ceiling", ceiling) if ceiling else None
    run = name_run("", by)

    async def go() -> Any:
        async with database() as engine:
            return await begin_walk(
                engine, asset, run, seed=seed, per_second=per_second, step=step, floor=low, ceiling=high
            )

    terms = asyncio.run(go())
    limits = f"from {format_decimal(terms.floor)} to {format_decimal(terms.ceiling)}"
    out.print(f"{asset} walks {per_second:g} times a second {limits}, seed {seed}")


@price_app.command()
def script(
    asset: Asset,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A line 'PRICE' or 'PRICE @SECONDS' each; # a comment.")],
    by: By = "operator",
) -> None:
    """Play prices from a file, each at its time after now, a second after the one before unless it says when.

    Each price is published, also those of the same moment. The last one stays.

    A file with the lines 50000, 51000 @0.5 and 45000 @1 is a spike and a crash within a second.

    Example: order-saga price script BTC crash.txt
    """
    from operations.market.prices import begin_script, read_prices
    from operations.repair.runs import name_run

    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(f"{file} can't be read: {error}") from None
    terms, run = read_prices(lines), name_run("", by)

    async def go() -> None:
        async with database() as engine:
            await begin_script(engine, asset, terms, run)

    asyncio.run(go())
    out.print(f"{asset} plays {len(terms.prices)} prices within {terms.prices[-1][1]:g} s")


def prices(json: Json = False) -> None:
    """List the price of each asset: its sequence, its age, whether it trades, and what rests there.

    'fires at': the nearest prices, below and above, at which orders of a fixed level fire. Trailing stops are counted.

    Example: order-saga prices --json
    """
    from operations.access.words import amount
    from operations.market.prices import prices as look

    async def go() -> list[dict[str, Any]]:
        async with database() as engine:
            return await look(engine)

    found = asyncio.run(go())
    if json:
        print_json(found)
        return
    columns = ("asset", "price", "sequence", "age", "trading", "source", "resting", "fires at")
    table = Table(*columns, title="prices")
    for row in found:
        trading = row["trading"] if row["trading"] == "OPEN" else f"[yellow]{row['trading']}[/]"
        if until := row["session_ends_at"] if row["trading"] == "OPEN" else row["reopens_at"]:
            trading += f" until {until:%Y-%m-%d %H:%M} UTC"
        age = "[red]never confirmed[/]" if row["age_s"] is None else f"{row['age_s']:.1f} s"
        levels = " ".join(
            f"{way} {amount(row[name])}" for way, name in (("▼", "next_below"), ("▲", "next_above")) if row[name]
        )
        resting = f"{row['resting']:,}" + (f", {row['trailing']:,} trailing" if row["trailing"] else "")
        known = (row["asset_id"], amount(row["price"]), str(row["sequence"]), age, trading, row["source"])
        table.add_row(*known, resting, levels)
    print_table(table)


@market_app.command()
def halt(asset: Asset, reason: Reason = "", by: By = "operator") -> None:
    """Halt an asset at once. Its price stands still, resting orders stay, and no order fires until it opens.

    Example: order-saga market halt BTC --reason "fat finger" --by ann
    """
    from contracts.assets import Trading

    _trade(asset, Trading.HALTED, by, reason=reason)


@market_app.command("close")
def close_market(
    asset: Asset,
    reopens_at: Annotated[
        str, typer.Option(metavar="TIME", help="When it is to open, such as 2026-12-01T08:00Z.")
    ] = "",
    reason: Reason = "",
    by: By = "operator",
) -> None:
    """Close an asset as planned, and say when it opens.

    One with sessions opens by them: with the next one, or with the first one after TIME. Any other one does not open by
    itself: 'market open' opens it.

    Example: order-saga market close BTC --reopens-at 2026-12-01T08:00Z
    """
    from contracts.assets import Trading

    _trade(asset, Trading.CLOSED, by, reopens_at=_read_time(reopens_at), reason=reason)


@market_app.command("open")
def open_market(
    asset: Asset,
    price: Annotated[str, typer.Option(help="The opening price. Default: the one that it has.")] = "",
    by: By = "operator",
) -> None:
    """Open an asset. Queued orders fill at the opening price, and resting ones fire if it reaches their levels.

    One with sessions that is opened between two of them stays open until the next one ends.

    Example: order-saga market open BTC --price 48500
    """
    from contracts.assets import Trading

    _trade(asset, Trading.OPEN, by, price=price)


@market_app.command("sessions")
def market_sessions(
    asset: Asset,
    calendar: Annotated[
        str, typer.Argument(metavar="[FILE]", help="A calendar (TOML), and with it the file of holidays that it names.")
    ] = "",
    remove: Annotated[bool, typer.Option("--remove", help="Take its sessions away; it stays open or closed.")] = False,
    json: Json = False,
    by: By = "operator",
) -> None:
    """Give an asset sessions that it follows from now on, or show those that it has.

    It opens and closes by the calendar within a second, whoever runs. A halt stays until it is lifted, whatever the
    calendar says. DAY orders end with the session. Without sessions, an asset is opened and closed by hand alone.

    Example: order-saga market sessions BTC calendar.toml --by ann
    """
    from operations.market import sessions
    from operations.repair.runs import name_run

    if remove and calendar:
        raise WrongRequest("--remove goes without a calendar")
    found = None if not calendar else sessions.read(calendar, _text(Path(calendar)), _beside(calendar))
    run = name_run("", by)

    async def go() -> dict[str, Any] | None:
        async with database() as engine:
            if remove:
                await sessions.remove(engine, asset, run)
                return None
            if found is not None:
                await sessions.put(engine, asset, found, run)
            return await sessions.show(engine, asset)

    shown = asyncio.run(go())
    if shown is None:
        out.print(f"{asset} has no sessions any more", markup=False)
    elif json:
        print_json(shown)
    else:
        _print_sessions(shown)


def _print_sessions(shown: dict[str, Any]) -> None:
    state, reopens_at = shown["trading"], shown["reopens_at"]
    until = f" until {reopens_at:%Y-%m-%d %H:%M} UTC" if reopens_at else ""
    out.print(f"{shown['asset_id']} is {state}{until}; {'in' if shown['in_session'] else 'between'} its sessions")
    table = Table("opens", "closes", title=f"sessions, {shown['time_zone']}, {shown['special_days']} special days")
    for session in shown["sessions"]:
        table.add_row(*(f"{session[name]:%a %Y-%m-%d %H:%M %z}" for name in ("opens", "closes")))
    print_table(table)


def _beside(calendar: str) -> Callable[[str], str]:
    """Read a file that a calendar names, which lies beside it."""
    return lambda name: _text(Path(calendar).parent / name)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Trouble(f"{path} can't be read: {error}") from None


def _trade(
    asset: str, trading: Trading, by: str, *, reopens_at: datetime | None = None, reason: str = "", price: str = ""
) -> None:
    from operations.access.words import amount
    from operations.market.prices import read_price, set_trading
    from operations.repair.runs import name_run

    value, run = read_price("--price", price) if price else None, name_run("", by)

    async def go() -> Any:
        async with database() as engine:
            return await set_trading(engine, asset, trading, run, reopens_at=reopens_at, reason=reason, price=value)

    now = asyncio.run(go())
    out.print(f"{asset} is {now.trading} at {amount(now.price)}, sequence {now.sequence}", markup=False)


def _read_time(text: str) -> datetime | None:
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise WrongRequest(f"--reopens-at {text!r} is no time; give one such as 2026-12-01T08:00Z") from None
    if time.tzinfo is None:
        raise WrongRequest(f"--reopens-at {text!r} has no time zone; end it with Z for UTC")
    return time


@feed_app.command()
def check(
    seconds: Annotated[float, typer.Option(min=1, max=3600, help="How long to listen; a heartbeat takes 10 s.")] = 15.0,
    json: Json = False,
) -> None:
    """Listen to assets.prices, and say of each asset how good its feed is. Exit 1 when something is wrong.

    It shows rates, gaps and steps back in the sequence, ages, prices off the tick, clocks that are ahead, and several
    producers. It needs the right to read assets.prices. Gaps are no fault: a feed need not number without them.

    Example: order-saga feed check --seconds 30
    """
    from operations.market.feed_check import listen
    from operations.market.feed_reset import ticks

    async def go() -> list[dict[str, Any]]:
        async with database() as engine:
            known = await ticks(engine)
        return await listen(kafka_settings(), seconds, known)

    with err.status(f"listening for {seconds:g} s ..."):
        found = asyncio.run(go())
    if json:
        print_json(found)
    else:
        _print_feeds(found)
    if not found or any(row["faults"] for row in found):
        raise typer.Exit(1)


def _print_feeds(found: list[dict[str, Any]]) -> None:
    table = Table("asset", "a second", "changes", "gaps", "age", "faults", title="assets.prices")
    for row in found:
        faults = "[red]" + "; ".join(row["faults"]) + "[/]" if row["faults"] else "[green]none[/]"
        rate, age = f"{row['messages_per_second']:g}", f"{row['age_max_s']:.1f} s"
        table.add_row(row["asset_id"], rate, str(row["changes"]), str(row["gaps"]), age, faults)
    print_table(table)
    if not found:
        out.print("[red]nothing came: is a feed running? see 'order-saga prices'[/]")


@feed_app.command()
def reset(asset: Asset, yes: Yes = False, by: By = "operator") -> None:
    """Make resting orders follow a feed whose sequence went back, such as one that was restarted at 1.

    All its prices count as late until then. The mark becomes the asset's price and sequence as 'order-saga prices'
    shows them. Resting orders of the asset wait from there on: nothing before fires them, and the watermarks of their
    trailing stops begin anew at this price.

    Example: order-saga feed reset BTC --by ann
    """
    from operations.access.words import amount
    from operations.market.feed_reset import reset as work
    from operations.repair.runs import name_run

    run = name_run("", by)
    if not yes:
        typer.confirm(f"Watermarks of trailing stops in {asset} begin anew. Go on?", abort=True, err=True)

    async def go() -> Any:
        async with database() as engine:
            return await work(engine, asset, run)

    found = asyncio.run(go())
    now = f"{amount(found['price'])}, sequence {found['sequence']}"
    out.print(f"{asset}: the mark is {now}; {found['orders']} resting orders wait from there on", markup=False)
