"""The list of what is checked before a release; stops at the first thing that isn't right.

``python tools/release.py``, on a clean main, with what the extra "release" names installed. It
prints a line for each step, and at its end the commands that publish. Only ``--publish`` runs
these. Exit status: 0, or 1 with what is to be done.
"""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import NamedTuple

from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parents[1]
#: The one place that says the version.
VERSION_FILE = "src/iowq/__init__.py"
#: Where git keeps which commits CI's command has passed for.
NOTES = "tested"
#: What a user of the wheel does first.
TRIAL = """
import iowq
support = iowq.cancel_support()
assert not support.problems, support.problems
print(iowq.__version__, end="")
"""


class Stop(Exception):  # noqa: N818 - says what to do
    """What isn't right, and what is to be done."""


class Release(NamedTuple):
    """What is to be released."""

    root: Path
    version: str
    dist: tuple[Path, Path]  # folders: what is published, and the same made once more
    made: bool  # by somebody else, before

    @property
    def tag(self) -> str:
        """Git's name of it."""
        return f"v{self.version}"

    @property
    def wheels(self) -> list[Path]:
        """Of each Linux."""
        return sorted(self.dist[0].glob("*.whl"))


def _run(root: Path, *command: object, advice: str) -> str:
    """Returns what the command prints, which must succeed."""
    words = [str(word) for word in command]
    result = subprocess.run(
        words, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if result.returncode:
        raise Stop(f"{shlex.join(words)} failed: {advice}\n{result.stdout}")
    return result.stdout


def _git(root: Path, *arguments: str) -> str:
    return _run(root, "git", *arguments, advice="see git's message").strip()


def _script(name: str) -> Path:
    return Path(sysconfig.get_path("scripts"), name)


def read_version(root: Path) -> str:
    """Returns the version that the sources name."""
    for node in ast.parse((root / VERSION_FILE).read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise Stop(f"{VERSION_FILE} has no __version__: give it one")


# ---- the steps: each returns what it has found


def tree_is_clean(release: Release) -> str:
    """Main is checked out, and all is committed."""
    branch = _git(release.root, "rev-parse", "--abbrev-ref", "HEAD")
    if branch != "main":
        raise Stop(f"{branch} is checked out: switch to main")
    if changes := _git(release.root, "status", "--porcelain"):
        raise Stop(f"the tree isn't clean: commit or remove\n{changes}")
    return f"main is clean, at {_git(release.root, 'rev-parse', '--short', 'HEAD')}"


def version_is_new(release: Release) -> str:
    """It is later than all that have a tag."""
    try:
        version = Version(release.version)
    except InvalidVersion:
        raise Stop(f"{release.version} is no version: change {VERSION_FILE}") from None
    tags = _git(release.root, "tag", "--list", "v[0-9]*").split()
    newest = max((Version(tag[1:]) for tag in tags), default=None)
    if newest is not None and version <= newest:
        raise Stop(f"{version} isn't later than {newest}, which has a tag: change {VERSION_FILE}")
    return f"{version} is new, after {newest or 'no other'}"


def changelog_is_dated(release: Release) -> str:
    """The version has a section with a date, and nothing is said to be unreleased."""
    text = (release.root / "CHANGELOG.md").read_text()
    sections = dict(re.findall(r"^## \[(.+?)\](.*(?:\n(?!## ).*)*)", text, re.MULTILINE))
    found = re.match(r" - (\d{4}-\d\d-\d\d)\n\s*\S", sections.get(release.version, ""))
    if not found:
        raise Stop(
            f"CHANGELOG.md has no section ## [{release.version}] - {date.today()} with text: "
            "make it of what is under [Unreleased]"
        )
    try:
        date.fromisoformat(found[1])
    except ValueError:
        raise Stop(f"{found[1]} in CHANGELOG.md is no date: correct it") from None
    if sections.get("Unreleased", "").strip():
        raise Stop(f"CHANGELOG.md has changes under [Unreleased]: move them to {release.version}")
    return f"the changelog's section is of {found[1]}"


def tests_have_passed(release: Release) -> str:
    """CI's command has passed for this commit; it is run, unless a note of git's says so."""
    commits = [
        line.split()[1] for line in _git(release.root, "notes", f"--ref={NOTES}").splitlines()
    ]
    if _git(release.root, "rev-parse", "HEAD") in commits:
        return "CI's command has passed for this commit before"
    _run(release.root, ".ci/run", advice="repair what it says")
    _git(release.root, "notes", f"--ref={NOTES}", "add", "--force", "--message=passed", "HEAD")
    tree_is_clean(release)
    return "CI's command has passed"


def builds_are_the_same(release: Release) -> str:
    """An sdist and all wheels, made twice, have the same bytes."""
    if not release.made:
        for folder in release.dist:
            command = [sys.executable, release.root / "tools/wheels.py", folder]
            _run(release.root, *command, advice="see what isn't installed")
    first, second = ({p.name: p.read_bytes() for p in f.iterdir()} for f in release.dist)
    different = sorted(name for name in first | second if first.get(name) != second.get(name))
    if different:
        raise Stop(f"two builds differ: find what isn't made of the sources in {different}")
    if [name for name in first if f"-{release.version}" not in name] or not first:
        raise Stop(f"{sorted(first)} aren't of {release.version}: remove old builds")
    return f"{len(first)} files were made twice, with the same bytes"


def auditors_agree(release: Release) -> str:
    """Each wheel's tags are true; an index would take them."""
    for wheel in release.wheels:
        tag = wheel.stem.rpartition("-")[2]
        said = _run(release.root, _script("auditwheel"), "show", wheel, advice="see what it says")
        if f'following platform tag: "{tag}"' not in " ".join(said.split()):
            raise Stop(f"{wheel.name} isn't what its tag says: see tools/wheels.py\n{said}")
    advice = "see what it says"
    _run(release.root, _script("abi3audit"), "--strict", *release.wheels, advice=advice)
    files = sorted(release.dist[0].iterdir())
    _run(release.root, _script("twine"), "check", "--strict", *files, advice=advice)
    return "auditwheel, abi3audit and twine agree"


def wheel_works(release: Release) -> str:
    """The one for this machine, alone in a new environment, ends what it says it ends."""
    tags = set(sys_tags())
    fitting = [w for w in release.wheels if parse_wheel_filename(w.name)[3] & tags]
    if not fitting:
        raise Stop("no wheel is for this machine: make the release on another one")
    with tempfile.TemporaryDirectory() as place:
        venv.create(place, with_pip=True)
        python = Path(place, "bin/python")
        install = [python, "-m", "pip", "install", "--quiet", fitting[0]]
        _run(Path(place), *install, advice="see pip's message")
        printed = _run(Path(place), python, "-c", TRIAL, advice="cancel must work here")
    if printed != release.version:
        raise Stop(f"the wheel says that it is {printed}: it is made of other sources")
    return f"{fitting[0].name} works in a new environment"


STEPS: list[Callable[[Release], str]] = [
    tree_is_clean,
    version_is_new,
    changelog_is_dated,
    tests_have_passed,
    builds_are_the_same,
    auditors_agree,
    wheel_works,
]


# ---- the end


def publishing_commands(release: Release) -> list[list[str]]:
    """What makes it public, in order."""
    message = f"--message=iowq {release.version}"
    return [
        ["git", "tag", "--annotate", message, release.tag],
        ["git", "push", "origin", "main", release.tag],
        [str(_script("twine")), "upload", *map(str, sorted(release.dist[0].iterdir()))],
    ]


def _publish(release: Release, for_real: bool) -> None:
    for command in publishing_commands(release):
        print(f"{'+' if for_real else 'would run:'} {shlex.join(command)}", flush=True)
        if for_real:
            _run(release.root, *command, advice="what is printed above has been done")


def check(release: Release) -> None:
    """Takes all steps; raises Stop."""
    for step in STEPS:
        print(f"ok: {step(release)}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--publish", action="store_true", help="tag, push and upload, too")
    parser.add_argument(
        "--made",
        nargs=2,
        type=Path,
        metavar="FOLDER",
        help="two folders that tools/wheels.py has filled: nothing is built, or published",
    )
    arguments = parser.parse_args()
    if arguments.publish and arguments.made:
        parser.error("what is published is built by this script")
    return arguments


def main() -> int:
    """Returns the exit status."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory() as place:
        dist = arguments.made or (ROOT / "dist", Path(place, "once more"))
        try:
            first, second = (folder.resolve() for folder in dist)
            made = arguments.made is not None
            release = Release(ROOT, read_version(ROOT), (first, second), made)
            check(release)
            _publish(release, arguments.publish)
        except Stop as stop:
            print(f"stopped: {stop}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
