"""The kit's public surface: what another team's service may import from `saga_kit`."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import saga_kit

ROOT = Path(__file__).parents[2]
MADE_BY_THE_KIT = {"BatchProcess", "Transaction"}
"""Classes that a service only receives and never creates."""


@pytest.mark.parametrize("name", saga_kit.__all__)
def test_every_public_name_exists_and_is_documented(name: str) -> None:
    """Each name of `__all__` exists, is defined in the kit, and has a docstring."""
    value = getattr(saga_kit, name)
    assert value.__name__ == name
    assert value.__module__.startswith("saga_kit.")
    assert (value.__doc__ or "").strip()


def test_the_list_of_public_names_is_sorted_and_told_to_readers() -> None:
    """`__all__` is sorted, holds no name twice, and each of its names is in the overview or derives from one there."""
    assert sorted(set(saga_kit.__all__)) == saga_kit.__all__
    errors = {name for name in saga_kit.__all__ if _is_error(getattr(saga_kit, name))} - {"KitError"}
    words = set((saga_kit.__doc__ or "").replace(",", " ").split())
    assert set() == set(saga_kit.__all__) - words - errors


def test_every_type_in_a_public_signature_is_exported() -> None:
    """Every type in the signatures of the surface is exported as well."""
    missing = {
        f"{name}: {mentioned.__name__}"
        for name in saga_kit.__all__
        for mentioned in _types_of(name, getattr(saga_kit, name))
        if mentioned.__module__.startswith("saga_kit") and mentioned.__name__ not in saga_kit.__all__
    }
    assert set() == missing


def test_all_errors_of_the_kit_are_public() -> None:
    """A service can import each error that the kit raises."""
    from saga_kit.runtime import errors  # noqa: PLC0415 - internal, looked at as a whole

    raised = {name for name, value in vars(errors).items() if _is_error(value) and value.__module__ == errors.__name__}
    assert set() == raised - set(saga_kit.__all__)


def test_a_name_outside_the_surface_is_no_attribute() -> None:
    """A name outside the surface is no attribute of the package."""
    with pytest.raises(AttributeError, match="has no attribute 'DatabaseClock'"):
        _ = saga_kit.DatabaseClock  # type: ignore[attr-defined]  # that is the point
    assert set(saga_kit.__all__) <= set(dir(saga_kit))


def test_a_name_costs_only_what_it_needs() -> None:
    """Importing the settings alone loads no Kafka consumer and no web server, so that a command line starts fast."""
    code = "import sys; from saga_kit import KitSettings; print({'faststream', 'uvicorn'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - our own words
    assert done.stdout == "set()\n"


def test_the_example_of_the_documentation_needs_nothing_else() -> None:
    """The wallet service of the documentation imports only from `saga_kit` itself and from `contracts`."""
    tree = ast.parse((ROOT / "docs" / "examples" / "wallet_service.py").read_text())
    ours = {
        node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module is not None
        and node.module.split(".")[0] not in sys.stdlib_module_names | {"sqlalchemy"}
    }
    assert {"saga_kit", "contracts.decimals"} == ours


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, Exception)


def _types_of(name: str, value: Any) -> Iterator[type]:
    """Yield the classes in the signature of a public function, or of the public members of a public class."""
    if not isinstance(value, type):
        yield from _flat(get_type_hints(value).values())
        return
    if not issubclass(value, Exception):
        yield from _flat(get_type_hints(value).values())
    for member, defined in vars(value).items():
        function = defined.fget if isinstance(defined, property) else defined
        if inspect.isfunction(function) and (
            not member.startswith("_") or (member == "__init__" and name not in MADE_BY_THE_KIT)
        ):
            yield from _flat(get_type_hints(function).values())


def _flat(hints: Any) -> Iterator[type]:
    for hint in hints:
        if inspect.isclass(hint):
            yield hint
        arguments = get_args(hint)
        if arguments:
            origin = getattr(hint, "__origin__", None)
            if inspect.isclass(origin):
                yield origin
            yield from _flat(a for one in arguments for a in (one if isinstance(one, list) else [one]))
