"""What docs say is so: their tables name what is tested, and their programs run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

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


def _programs() -> list[str]:
    names = ("celery", "dask", "files", "timeouts")
    texts = [(ROOT / f"docs/guides/{name}.md").read_text() for name in names]
    return re.findall(r"```python\n(import .*?)```", "\n".join(texts), re.DOTALL)


@pytest.mark.parametrize("program", _programs())
def test_programs_run_as_they_stand(program: str) -> None:
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


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
    assert any(program in page.read_text() for page in (ROOT / "docs").rglob("*.md"))
