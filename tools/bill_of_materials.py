"""What a wheel is made of and with, as CycloneDX, where PEP 770 puts it."""

from __future__ import annotations

import uuid
from datetime import datetime, timezone
from email.parser import HeaderParser
from importlib.metadata import version
from pathlib import Path

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

COMPILED_WITH = ("cffi", "setuptools", "ziglang")


def _package(name: str, version: str | None, kind: ComponentType) -> Component:
    purl = PackageURL("pypi", name=name, version=version)
    return Component(name=name, version=version, type=kind, purl=purl, bom_ref=str(purl))


def make(name: str, version_: str, epoch: int) -> str:
    """Returns the bill of that version, made at that time (seconds)."""
    package = _package(name, version_, ComponentType.LIBRARY)
    cffi = _package("cffi", None, ComponentType.LIBRARY)  # whichever the user has
    bill = Bom(serial_number=uuid.uuid5(uuid.NAMESPACE_URL, str(package.purl)), components=[cffi])
    bill.metadata.component = package
    bill.metadata.timestamp = datetime.fromtimestamp(epoch, timezone.utc)
    for tool in COMPILED_WITH:
        component = _package(tool, version(tool), ComponentType.APPLICATION)
        bill.metadata.tools.components.add(component)
    bill.register_dependency(package, [cffi])
    return JsonV1Dot6(bill).output_as_string(indent=1)


def write(information: Path, epoch: int) -> None:
    """Adds it to the folder with the wheel's metadata."""
    metadata = HeaderParser().parsestr((information / "METADATA").read_text())
    folder = information / "sboms"
    folder.mkdir()
    (folder / "iowq.cdx.json").write_text(make(metadata["Name"], metadata["Version"], epoch))
