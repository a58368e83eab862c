"""What docs say is so: tables name what is tested, programs run, and print what is shown."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests/cancel"


def _cases() -> set[str]:
    calls = (TESTS / "test_blocking_calls.py").read_text()
    servers = (TESTS / "test_servers.py").read_text()
    waits = (TESTS / "test_interrupt.py").read_text()
    names = re.findall(r"@case\ndef (\w+)\(", calls)
    names += re.findall(r"^def test_(sqlite\w+)\(", calls, re.MULTILINE)
    names += re.findall(r"^def test_(\w+)\(", servers, re.MULTILINE)
    for table in ("WAITS", "LOCKS", "COMPUTING"):
        body = re.search(rf"^{table} = \[(.*?)^\]", waits, re.MULTILINE | re.DOTALL)
        assert body
        names += re.findall(r"\b_(\w+)", body[1])
    return set(names)


def test_the_table_of_cancelled_calls_is_complete() -> None:
    table = (ROOT / "docs/guides/cancel.md").read_text().rpartition("| --- | --- | --- |\n")[2]
    rows = [row.split(" | ") for row in table.splitlines() if row.startswith("| ")]
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row[2])}
    others = set(
        re.findall(r"^def test_(\w+)\(", (TESTS / "test_interrupt.py").read_text(), re.MULTILINE)
    )
    assert named - others == _cases()
    assert len(_cases()) >= 60


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


class Program(NamedTuple):
    """A block of a page that begins with an import, and the output that is shown below it."""

    page: str
    code: str
    output: str | None


def _programs() -> Iterator[Program]:
    pattern = r"```python\n(import .*?|from .*?)```\n(?:\n```text\n(.*?)```)?"
    for page in PAGES:
        for match in re.finditer(pattern, page.read_text(), re.DOTALL):
            yield Program(str(page.relative_to(ROOT)), match[1], match[2])


@pytest.mark.parametrize("program", list(_programs()), ids=lambda program: program.page)
def test_programs_run_as_they_stand(program: Program) -> None:
    result = subprocess.run(
        [sys.executable, "-c", program.code],
        check=False,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert program.output in (None, result.stdout)


def test_a_page_for_beginners_shows_what_its_programs_print() -> None:
    for program in _programs():
        assert program.output is not None or program.page != "docs/start.md", program.code


def _fragments() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
            yield str(page.relative_to(ROOT)), code


@pytest.mark.parametrize(("page", "code"), list(_fragments()))
def test_fragments_are_python(page: str, code: str) -> None:
    compile(code, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_the_example_copies_a_tree_in_each_way(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number % 7}").mkdir(exist_ok=True)
        (tmp_path / f"{number % 7}/{number}").write_bytes(bytes(number * 50))
    command = [sys.executable, str(ROOT / "examples/hash_tree.py"), "--tree", str(tmp_path)]
    result = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    lines = result.stdout.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["iowq.files", "aiofiles", "threads"]
    assert all(re.search(r" 300 files in \d+\.\d\d s$", line) for line in lines[-3:])


APPLICATIONS = sorted((ROOT / "examples").glob("*_app.py"))


@pytest.mark.parametrize("example", APPLICATIONS, ids=lambda path: path.stem)
def test_docs_show_the_examples(example: Path) -> None:
    """Which have tests of their own."""
    program = f"```python\n{example.read_text()}```"
    assert any(program in page.read_text() for page in PAGES)
