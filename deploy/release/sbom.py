"""The bill of materials of the image's Python packages, in CycloneDX's JSON, made from the lock file that it installs.

The lock file is for every platform and Python; the bill lists what the image gets of it. The same lock file, version
and time give the same bytes.
"""

from __future__ import annotations

import re
import uuid
from datetime import datetime
from importlib import metadata
from typing import Final

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseExpression
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

IMAGE: Final = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.12.0",
    "python_version": "3.12",
    "sys_platform": "linux",
}
"""The environment of the image, by the names of PEP 508."""

_PINNED: Final = re.compile(r"^(?P<requirement>[A-Za-z0-9][^\\\n]*==[^\\\n]*)", re.MULTILINE)


def bill(lock: str, version: str, at: datetime) -> str:
    """Write the bill of one version."""
    bom = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, f"pkg:pypi/order-saga@{version}"))
    bom.metadata.timestamp = at
    bom.metadata.component = _component("order-saga", version, ComponentType.APPLICATION)
    parts = [_component(name, pinned) for name, pinned in installed(lock)]
    for part in parts:
        bom.components.add(part)
    bom.register_dependency(bom.metadata.component, parts)
    return str(JsonV1Dot6(bom).output_as_string(indent=2)) + "\n"


def installed(lock: str) -> list[tuple[str, str]]:
    """Return the names and versions that the image gets of a lock file."""
    wanted = [Requirement(found["requirement"].strip()) for found in _PINNED.finditer(lock)]
    return [
        (one.name, next(iter(one.specifier)).version)
        for one in wanted
        if one.marker is None or one.marker.evaluate(dict(IMAGE))
    ]


def _component(name: str, version: str, kind: ComponentType = ComponentType.LIBRARY) -> Component:
    purl = PackageURL("pypi", None, name, version)
    reference = purl.to_string()
    return Component(name=name, version=version, type=kind, purl=purl, bom_ref=reference, licenses=_licences(name))


def _licences(name: str) -> tuple[LicenseExpression, ...]:
    """Return the licence that a package states, where it is installed here and states one by its SPDX name."""
    try:
        stated = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return ()
    expressions = stated.get_all("License-Expression") or ()
    return tuple(LicenseExpression(expression) for expression in expressions)
