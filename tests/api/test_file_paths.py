"""Path does what :class:`pathlib.Path` does, and has what :class:`anyio.Path` has."""

from __future__ import annotations

import asyncio
import os
import pathlib
import socket
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from iowq.files import Path
from support import DEADLINE

if TYPE_CHECKING:
    from loops import Run


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """With a file of each kind."""
    (tmp_path / "text").write_text("ä\nb\n", encoding="utf-8")
    (tmp_path / "sub" / "deep").mkdir(parents=True)
    (tmp_path / "sub" / "deep" / "one.py").touch()
    (tmp_path / "link").symlink_to("text")
    (tmp_path / "linked folder").symlink_to("sub")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    return tmp_path


def in_words(error: Exception) -> object:
    """What OSErrors say; of others that differs between versions."""
    return type(error), isinstance(error, OSError) and str(error)


def outcome(call: Callable[[], Any]) -> Any:
    """What it returns; or what it raises, in words."""
    try:
        answer = call()
    except (OSError, ValueError, RuntimeError) as error:
        return in_words(error)
    return str(answer) if isinstance(answer, pathlib.PurePath) else answer


async def awaited(call: Callable[[], Any]) -> Any:
    try:
        answer = await call()
    except (OSError, ValueError, RuntimeError) as error:
        return in_words(error)
    assert not isinstance(answer, pathlib.Path)
    return str(answer) if isinstance(answer, pathlib.PurePath) else answer


def test_it_has_what_anyio_has() -> None:
    names = {name for name in dir(anyio.Path) if not name.startswith("_")} - {"limiter"}
    assert names - set(dir(Path)) == set()
    for name in names:  # and what is a function there is one here
        assert callable(getattr(Path, name)) == callable(getattr(anyio.Path, name))


def test_it_is_a_pure_path() -> None:
    path = Path("/a") / "b.txt"
    assert isinstance(path, Path)
    assert path == pathlib.PurePosixPath("/a/b.txt")
    assert (path.name, path.suffix, str(path.parent)) == ("b.txt", ".txt", "/a")
    assert type(path.with_suffix(".py")) is type(path.parent) is Path
    assert repr(path) == "Path('/a/b.txt')"
    assert os.fspath(path) == "/a/b.txt"


QUESTIONS: list[Callable[[Any], Any]] = [
    lambda path: path.stat(),
    lambda path: path.lstat(),
    lambda path: path.exists(),
    lambda path: path.is_file(),
    lambda path: path.is_dir(),
    lambda path: path.is_symlink(),
    lambda path: path.is_fifo(),
    lambda path: path.is_socket(),
    lambda path: path.is_block_device(),
    lambda path: path.is_char_device(),
    lambda path: path.is_mount(),
    lambda path: path.owner(),
    lambda path: path.group(),
    lambda path: path.readlink(),
    lambda path: path.resolve(),
    lambda path: path.absolute(),
    lambda path: path.expanduser(),
    lambda path: path.samefile("/"),
]


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda fn: "_".join(fn.__code__.co_names))
def test_questions(run: Run, folder: pathlib.Path, question: Callable[[Any], Any]) -> None:
    names = ["text", "sub", "link", "linked folder", "broken", "fifo", "socket", "none", "loop"]
    places = [str(folder / name) for name in names]
    places += ["/", "/dev/null", "text/none", "a\0b", "x" * 300, "~/x"]

    async def main() -> None:
        for place in places:
            expected = outcome(lambda: question(pathlib.Path(place)))  # noqa: B023
            assert await awaited(lambda: question(Path(place))) == expected  # noqa: B023

    run(main())


def test_what_files_hold(run: Run, folder: pathlib.Path) -> None:
    async def main() -> None:
        path = Path(folder / "text")
        assert await path.read_bytes() == "ä\nb\n".encode()
        assert await path.read_text("utf-8") == "ä\nb\n"
        assert await path.write_bytes(bytearray(b"x" * 10)) == 10
        assert await path.write_text("ü\n", "utf-16", newline="\r\n") == 2
        assert path.name == "text"
        assert (folder / "text").read_bytes() == "ü\r\n".encode("utf-16")
        assert await path.read_text("utf-16") == "ü\n"
        async with path.open("a", encoding="utf-16") as file:
            await file.write("more")
        assert await path.read_text(encoding="utf-16") == "ü\nmore"
        with pytest.raises(UnicodeDecodeError):
            await path.read_text("ascii")
        with pytest.raises(TypeError, match="data must be str, not bytes"):
            await path.write_text(b"x")  # type: ignore[arg-type]
        with pytest.raises(IsADirectoryError):
            await Path(folder).read_text()

    run(main())


def test_changes(run: Run, folder: pathlib.Path) -> None:
    async def main() -> None:
        path = Path(folder)
        await (path / "a/b/c").mkdir(0o750, parents=True)
        await (path / "a/b/c").mkdir(exist_ok=True)
        with pytest.raises(FileExistsError):
            await (path / "a").mkdir()
        await (path / "a/b/c").rmdir()
        new = path / "new"
        await new.touch(0o600)
        with pytest.raises(FileExistsError):
            await new.touch(exist_ok=False)
        await new.chmod(0o640)
        assert (await new.stat()).st_mode & 0o777 == 0o640
        moved = await new.rename(path / "moved")
        assert type(moved) is Path
        assert moved == path / "moved"
        assert await moved.exists()
        assert not await new.exists()
        assert await moved.replace(str(path / "text")) == path / "text"
        await new.symlink_to("text")
        await (path / "hard").hardlink_to(path / "text")
        assert await new.samefile(path / "hard")
        assert await new.readlink() == Path("text")
        await new.unlink()
        await new.unlink(missing_ok=True)
        with pytest.raises(FileNotFoundError):
            await new.unlink()
        assert os.fspath(await Path.cwd()) == str(pathlib.Path.cwd())
        assert os.fspath(await Path.home()) == str(pathlib.Path.home())

    run(main())


def test_iteration(run: Run, folder: pathlib.Path) -> None:
    for number in range(600):
        (folder / "sub" / str(number)).touch()

    async def main() -> None:
        path = Path(folder)
        inside = [each async for each in (path / "sub").iterdir()]
        assert {type(each) for each in inside} == {Path}
        assert set(map(str, inside)) == set(map(str, (folder / "sub").iterdir()))
        for pattern in ("*", "**/*.py", "t*"):
            found = {str(each) async for each in path.glob(pattern)}
            assert found == {str(each) for each in folder.glob(pattern)}
        assert [each.name async for each in path.rglob("*.py")] == ["one.py"]
        with pytest.raises(FileNotFoundError):
            async for _ in (path / "none").iterdir():
                pass

    run(main())


@pytest.mark.parametrize("top_down", [True, False])
def test_walk(run: Run, folder: pathlib.Path, top_down: bool) -> None:
    async def main() -> None:
        seen = {
            str(path): (set(dirs), set(names))
            async for path, dirs, names in Path(folder).walk(top_down)
        }
        links = {"link", "linked folder", "broken", "loop"}
        assert seen == {
            str(folder): ({"sub"}, {"text", "fifo", "socket"} | links),
            str(folder / "sub"): ({"deep"}, set()),
            str(folder / "sub/deep"): (set(), {"one.py"}),
        }
        errors: list[OSError] = []
        assert not [each async for each in Path("/none").walk(on_error=errors.append)]
        assert isinstance(errors[0], FileNotFoundError)
        if top_down:
            pruned = []
            async for path, dirs, _ in Path(folder).walk():
                pruned.append(path.name)
                dirs.clear()
            assert pruned == [folder.name]
            linked = [p.name async for p, _, _ in Path(folder).walk(follow_symlinks=True)]
            assert "linked folder" in linked

    run(main())


def test_outside_of_a_loop_there_are_futures(folder: pathlib.Path) -> None:
    path = Path(folder / "text")

    def result(future: Any) -> Any:
        assert isinstance(future, Future)
        return future.result(DEADLINE)

    assert result(path.exists())
    assert result(path.is_file())
    assert result(path.read_text("utf-8")) == "ä\nb\n"
    assert result(path.write_text("x")) == 1
    assert result(path.read_bytes()) == b"x"
    assert result(path.stat()) == (folder / "text").stat()
    assert result(path.rename(folder / "moved")) == Path(folder / "moved")
    assert type(result((path / "..").resolve())) is Path
    result(Path(folder / "moved").unlink())
    result(path.unlink(missing_ok=True))
    with pytest.raises(FileNotFoundError):
        result(path.unlink())


def test_questions_are_asked_at_once(folder: pathlib.Path) -> None:
    async def main() -> None:
        path = Path(folder)
        names = [f"number {number}" for number in range(200)]
        await asyncio.gather(*((path / name).write_text(name) for name in names))
        assert await asyncio.gather(*((path / name).read_text() for name in names)) == names
        assert all(await asyncio.gather(*((path / name).is_file() for name in names)))

    asyncio.run(main())
