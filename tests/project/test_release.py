"""tools/release.py stops at what isn't right, and says what to do; and the version has one place.

In clones of a repository of git's, with all that the project has. What takes long is what other
tests have, too: the wheels, which were made already; CI's command is another one here.
"""

from __future__ import annotations

import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import iowq
from ahead import LOW_PRIORITY_SECONDS
from published import make_twice

ROOT = Path(__file__).resolve().parents[2]
VERSION = iowq.__version__
SECTION = f"## [{VERSION}] - 2026-12-01\n\n### Added\n\n- All.\n"
Made = tuple[Path, Path]


def _git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    command = ["git", *identity, *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True, timeout=60
    ).stdout


def _commit(folder: Path) -> None:
    _git(folder, "add", "--all")
    _git(folder, "commit", "--quiet", "--message=A change")


def _replace(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, ready for a release."""
    folder = tmp_path_factory.mktemp("origin") / "iowq"
    ignored = shutil.ignore_patterns(
        ".?*", "build", "dist", "*.egg-info", "__pycache__", "benchmarks", "docs", "tests"
    )
    shutil.copytree(ROOT, folder, ignore=ignored)
    shutil.copy(ROOT / ".gitignore", folder)
    (folder / ".ci").mkdir()
    (folder / ".ci/run").write_text("#!/bin/sh\necho tested >>../runs\n")
    (folder / ".ci/run").chmod(0o755)
    (folder / "CHANGELOG.md").write_text(f"# Changelog\n\n## [Unreleased]\n\n{SECTION}")
    _git(folder, "init", "--quiet", "--initial-branch=main")
    _commit(folder)
    return folder


@pytest.fixture
def clone(origin: Path, tmp_path: Path) -> Path:
    _git(tmp_path, "clone", "--quiet", str(origin), "clone")
    for key, value in ("name", "Somebody"), ("email", "somebody@example.org"):
        _git(tmp_path / "clone", "config", f"user.{key}", value)
    return tmp_path / "clone"


def _release(clone: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(clone / "tools/release.py"), *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=clone,
        capture_output=True,
        text=True,
        timeout=LOW_PRIORITY_SECONDS,
        check=False,
    )


def _nothing_made(clone: Path) -> list[str]:
    """Options: no build is begun, and the step of builds stops."""
    folder = clone.parent / "nothing"
    folder.mkdir(exist_ok=True)
    return ["--made", str(folder), str(folder)]


# ---- what it stops at


def _another_branch(clone: Path) -> None:
    _git(clone, "switch", "--quiet", "--create", "other")


def _changed(clone: Path) -> None:
    (clone / "README.md").write_text("changed")


def _untracked(clone: Path) -> None:
    (clone / "new.py").touch()


def _tagged(clone: Path) -> None:
    _git(clone, "tag", f"v{VERSION}")


def _later_one_tagged(clone: Path) -> None:
    _git(clone, "tag", "v99.0")


def _no_version(clone: Path) -> None:
    _replace(clone / "src/iowq/__init__.py", f'"{VERSION}"', '"soon"')
    _commit(clone)


def _other_version(clone: Path) -> None:
    _replace(clone / "src/iowq/__init__.py", f'"{VERSION}"', '"98.0"')
    _commit(clone)


def _without_date(clone: Path) -> None:
    _replace(clone / "CHANGELOG.md", " - 2026-12-01", "")
    _commit(clone)


def _no_such_day(clone: Path) -> None:
    _replace(clone / "CHANGELOG.md", "2026-12-01", "2026-12-41")
    _commit(clone)


def _empty_section(clone: Path) -> None:
    _replace(
        clone / "CHANGELOG.md", "\n### Added\n\n- All.\n", "\n## [0.0.1] - 2026-01-01\n\n- Old.\n"
    )
    _commit(clone)


def _unreleased_changes(clone: Path) -> None:
    _replace(clone / "CHANGELOG.md", "## [Unreleased]\n", "## [Unreleased]\n\n- Something.\n")
    _commit(clone)


def _failing_tests(clone: Path) -> None:
    (clone / ".ci/run").write_text("#!/bin/sh\necho one test fails\nexit 1\n")
    _commit(clone)


#: What is wrong, after how many steps it stops, and what it says.
WRONG: list[tuple[Callable[[Path], None], int, str]] = [
    (_another_branch, 0, "switch to main"),
    (_changed, 0, "commit or remove\nM README.md"),
    (_untracked, 0, "commit or remove\n?? new.py"),
    (_tagged, 1, "which has a tag: change src/iowq/__init__.py"),
    (_later_one_tagged, 1, f"{VERSION} isn't later than 99.0"),
    (_no_version, 1, "soon is no version"),
    (_other_version, 2, "no section ## [98.0] - 20"),
    (_without_date, 2, f"no section ## [{VERSION}] - 20"),
    (_no_such_day, 2, "2026-12-41 in CHANGELOG.md is no date"),
    (_empty_section, 2, f"no section ## [{VERSION}] - 20"),
    (_unreleased_changes, 2, f"move them to {VERSION}"),
    (_failing_tests, 3, "repair what it says\none test fails"),
]


@pytest.mark.parametrize(
    ("make_wrong", "steps", "said"), WRONG, ids=[wrong[0].__name__[1:] for wrong in WRONG]
)
def test_stops_at(clone: Path, make_wrong: Callable[[Path], None], steps: int, said: str) -> None:
    make_wrong(clone)
    result = _release(clone, *_nothing_made(clone))
    assert result.returncode == 1
    assert result.stderr.startswith("stopped: ")
    assert said in result.stderr
    assert len(re.findall("^ok: ", result.stdout, re.MULTILINE)) == steps
    assert "would run" not in result.stdout


def test_tests_run_once_for_a_commit(clone: Path) -> None:
    for _ in range(2):
        assert "aren't of" in _release(clone, *_nothing_made(clone)).stderr
    assert (clone.parent / "runs").read_text() == "tested\n"
    (clone / "another").touch()
    _commit(clone)
    _release(clone, *_nothing_made(clone))
    assert (clone.parent / "runs").read_text() == "tested\ntested\n"


def test_publishes_nothing_that_it_did_not_make(clone: Path) -> None:
    result = _release(clone, "--publish", *_nothing_made(clone))
    assert result.returncode == 2
    assert "what is published is built by this script" in result.stderr


# ---- with wheels


BUILT = pytest.mark.ahead(by=make_twice)
LONG = pytest.mark.timeout(LOW_PRIORITY_SECONDS)


@BUILT
@LONG
def test_a_good_one_says_how_it_would_be_published(clone: Path, ahead: Made) -> None:
    result = _release(clone, "--made", *ahead)
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["ok"] * 7 + ["would run"] * 3
    assert lines[7].startswith("would run: git tag --annotate")
    assert lines[8].endswith(f"push origin main v{VERSION}")
    assert lines[9].count(".whl") == 4
    assert lines[9].count(".tar.gz") == 1
    assert _git(clone, "tag") == ""


@BUILT
@LONG
def test_builds_that_differ(clone: Path, ahead: Made, tmp_path: Path) -> None:
    other = Path(shutil.copytree(ahead[1], tmp_path / "other"))
    (sdist,) = other.glob("*.tar.gz")
    with sdist.open("ab") as file:
        file.write(b"x")
    result = _release(clone, "--made", ahead[0], other)
    assert result.returncode == 1
    assert (
        f"two builds differ: find what isn't made of the sources in ['{sdist.name}']"
        in result.stderr
    )


@BUILT
@LONG
def test_a_tag_that_is_not_true(clone: Path, ahead: Made, tmp_path: Path) -> None:
    """A wheel for musl that says it is for an old glibc."""
    made = Path(shutil.copytree(ahead[0], tmp_path / "made"))
    (wheel,) = made.glob("*musllinux_1_2_x86_64.whl")
    wheel.rename(made / wheel.name.replace("musllinux_1_2", "manylinux_2_5"))
    result = _release(clone, "--made", made, made)
    assert result.returncode == 1
    assert "isn't what its tag says" in result.stderr or "auditwheel show" in result.stderr


# ---- the version


@BUILT
@LONG
def test_all_say_the_same_version(ahead: Made) -> None:
    """What the package says, what is installed, and what each file's name says."""
    assert importlib.metadata.version("iowq") == VERSION
    for path in ahead[0].iterdir():
        assert path.name.split("-")[1].removesuffix(".tar.gz") == VERSION
    result = subprocess.run(
        [sys.executable, "-m", "iowq", "--version"], capture_output=True, text=True, check=True
    )
    assert result.stdout == f"iowq {VERSION}\n"


def test_the_version_has_one_place() -> None:
    """Of all that isn't about versions gone by: the changelog."""
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()
    sources = [path for name in ("csrc", "src", "tools") for path in (ROOT / name).rglob("*.*")]
    sources += [ROOT / "build.py", ROOT / "pyproject.toml", ROOT / "README.md"]
    sources += (ROOT / "docs").rglob("*.*")
    texts = {
        path: path.read_text()
        for path in sources
        if path.suffix in {".c", ".h", ".md", ".py", ".pyi", ".toml"}
    }
    literal = re.compile(rf"(?<![\d.]){re.escape(VERSION)}(?![\d.])")
    naming = [path.relative_to(ROOT) for path, text in texts.items() if literal.search(text)]
    assert naming == [Path("src/iowq/__init__.py")]
