"""What is published: what auditors say of it, and that it is made of nothing but the sources.

tests/project/test_versions.py uses the wheel for this kind of Linux, test_aarch64_wheel.py and
test_musl.py others.
"""

from __future__ import annotations

import json
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from ahead import LOW_PRIORITY_SECONDS
from published import make_twice

TAGS = {
    f"{libc}_{cpu}" for libc in ("manylinux_2_17", "musllinux_1_2") for cpu in ("x86_64", "aarch64")
}

pytestmark = [
    pytest.mark.ahead(by=make_twice),
    pytest.mark.timeout(LOW_PRIORITY_SECONDS),
]
Made = tuple[Path, Path]


def _wheels(made: Made) -> dict[str, Path]:
    """By the tag of the Linux."""
    found = {path.stem.split("-")[-1]: path for path in made[0].glob("iowq-*-cp310-abi3-*.whl")}
    assert set(found) == TAGS
    return found


def _say(tool: str, *arguments: str | Path) -> str:
    """Returns what an auditor says, who must not object."""
    command = [str(Path(sysconfig.get_path("scripts"), tool)), *map(str, arguments)]
    result = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_the_same_sources_make_the_same_bytes(ahead: Made) -> None:
    """In whatever folder."""
    first, second = ({path.name: path.read_bytes() for path in made.iterdir()} for made in ahead)
    assert len(first) == 1 + len(TAGS)
    assert [name for name in first if first[name] != second[name]] == []


def test_each_wheel_needs_what_its_tag_says(ahead: Made) -> None:
    for tag, wheel in _wheels(ahead).items():
        said = " ".join(_say("auditwheel", "show", wheel).split())
        assert f'following platform tag: "{tag}"' in said


def test_each_wheel_keeps_to_the_stable_abi(ahead: Made) -> None:
    for wheel in _wheels(ahead).values():
        _say("abi3audit", "--strict", wheel)


def test_an_index_would_take_them(ahead: Made) -> None:
    _say("twine", "check", "--strict", *ahead[0].iterdir())


def test_each_wheel_says_what_it_is_made_of(ahead: Made) -> None:
    for wheel in _wheels(ahead).values():
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [
                n for n in archive.namelist() if n.endswith(".dist-info/sboms/iowq.cdx.json")
            ]
            bill = json.loads(archive.read(name))
        assert bill["metadata"]["component"]["name"] == "iowq"
        assert {tool["name"] for tool in bill["metadata"]["tools"]["components"]} >= {"ziglang"}
        assert [component["name"] for component in bill["components"]] == ["cffi"]


def test_no_wheel_has_names_of_folders(ahead: Made) -> None:
    for wheel in _wheels(ahead).values():
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [n for n in archive.namelist() if n.endswith(".so")]
            extension = archive.read(name)
        assert str(Path(sys.prefix)).encode() not in extension
        assert b"/iowq/csrc" not in extension
