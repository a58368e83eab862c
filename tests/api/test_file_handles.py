"""Open files: what handles take and give, and what cancel, errors, exit and fork leave of it."""

from __future__ import annotations

import asyncio
import errno
import gc
import io
import os
import random
import re
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from iowq import files
from loops import Run, each_loop, until
from support import DEADLINE, succeed, wait_until

LINES = [f"line {number}: ü\n" for number in range(5000)]
TEXT = "".join(LINES)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path


def descriptors() -> set[str]:
    """Names of what is open, but for what the loops' inboxes are made of."""
    names = set()
    for link in Path("/proc/self/fd").iterdir():
        try:
            target = str(link.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("/") and not target.startswith(("/dev", "/proc")):
            names.add(target)
    return names


async def cancel(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.wait([task], timeout=DEADLINE)
    assert task.cancelled()


def test_to_append_nothing_moves_nothing(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with files.open(tmp_path / "new", "a+b") as file:
            await file.truncate(3)
            await file.seek(2)
            await file.write(b"")
            assert await file.tell() == 2

    run(main())


def test_bytes(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with files.open(tmp_path / "new", "x+b") as file:
            assert await file.write(b"one\ntwo\n") == 8
            await file.writelines([bytearray(b"three"), memoryview(b"\nfour")])
            assert await file.tell() == 18
            assert await file.seek(-6, os.SEEK_END) == 12
            assert await file.readline() == b"e\n"
            assert await file.read1() == b"four"
            assert await file.read() == b""
            assert await file.seek(0) == 0
            assert (await file.peek())[:3] == b"one"
            buffer = bytearray(5)
            assert await file.readinto(buffer) == 5
            assert buffer == b"one\nt"
            assert await file.readlines() == [b"wo\n", b"three\n", b"four"]
            assert await file.truncate(3) == 3
            await file.seek(0)
            assert await file.readall() == b"one"
            assert file.mode == "xb+"
            assert file.name == str(tmp_path / "new")
            assert file.readable()
            assert await file.writable()
            assert await file.seekable()
            assert not await file.isatty()
            assert os.fstat(file.fileno()).st_size == 3
        assert file.closed
        await file.close()

    run(main())


def test_text(run: Run, path: Path) -> None:
    async def main() -> None:
        async with files.open(path, "r+", encoding="utf-8", newline="\r\n") as file:
            await file.seek(0, os.SEEK_END)
            assert await file.write("end\n") == 4
            await file.seek(0)
            assert await file.read() == TEXT + "end\r\n"
            assert (file.encoding, file.errors, file.newlines) == ("utf-8", "strict", None)
            assert file.mode == "r+"
            assert not file.line_buffering
            assert await file.readable()
        async with files.open(path, encoding="utf-8") as file:
            assert [line async for line in file] == [*LINES, "end\n"]
            assert file.newlines == ("\n", "\r\n")

    run(main())


def test_a_byte_order_mark_is_written_once(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        for _ in range(3):
            async with files.open(tmp_path / "new", "a", encoding="utf-16") as file:
                await file.write("a")
        assert (tmp_path / "new").read_bytes() == "aaa".encode("utf-16")

    run(main())


@pytest.mark.parametrize("chunk", [1, 100, 3000])
def test_tell_is_that_of_io(run: Run, path: Path, chunk: int) -> None:
    """Each takes the other's places."""

    async def main() -> None:
        async with files.open(path, encoding="utf-8") as file:
            with path.open(encoding="utf-8") as real:
                for _ in range(20):
                    assert await file.read(chunk) == real.read(chunk)
                    place = await file.tell()
                    assert place == real.tell()
                    await file.seek(real.tell())
                    real.seek(place)

    run(main())


@pytest.mark.parametrize(
    ("mode", "arguments"),
    [
        ("", {}),
        ("q", {}),
        ("rr", {}),
        ("rw", {}),
        ("+", {}),
        ("rbt", {}),
        ("r", {"buffering": 0}),
        ("rb", {"encoding": "utf-8"}),
        ("rb", {"errors": "strict"}),
        ("rb", {"newline": ""}),
        ("r", {"newline": "q"}),
        ("r", {"encoding": "no such encoding"}),
        ("r", {"encoding": "hex"}),
        ("r", {"closefd": False}),
        (3, {}),
        ("r", {"newline": 3}),
    ],
)
def test_bad_arguments_are_ios(path: Path, mode: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises((ValueError, TypeError, LookupError)) as real:
        open(path, mode, **arguments)  # noqa: PTH123, SIM115
    with pytest.raises(type(real.value)) as ours:
        files.open(path, mode, **arguments)
    if mode not in ("", "+") and "closefd" not in arguments and arguments != {"newline": 3}:
        # of those others say it otherwise
        assert str(ours.value).lower() == str(real.value).lower()


def test_line_buffering_of_bytes_is_warned_of(path: Path) -> None:
    with pytest.warns(RuntimeWarning, match="isn't supported in binary mode") as caught:
        files.open(path, "rb", buffering=1)
    assert caught[0].filename == __file__


def test_open_says_what_io_says(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        for place, mode in ((tmp_path / "none", "r"), (tmp_path, "r"), (tmp_path, "w")):
            with pytest.raises(OSError, match=re.escape(str(tmp_path))) as real:
                place.open(mode)
            with pytest.raises(type(real.value)) as ours:
                await files.open(place, mode)
            assert str(ours.value) == str(real.value)
        with pytest.raises(OSError, match="Bad file descriptor"):
            await files.open(12345)
        with pytest.raises(ValueError, match="null byte"):
            await files.open("a\0b")
        with pytest.raises(TypeError, match="PathLike object, not object"):
            files.open(object())  # type: ignore[call-overload]

    run(main())
    assert not any(name.startswith(str(tmp_path)) for name in descriptors())


def test_a_closed_file_is_refused(run: Run, path: Path) -> None:
    async def main() -> None:
        binary, text = await files.open(path, "r+b"), await files.open(path, "r+")
        await binary.close()
        await text.close()
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: binary.readall(),
            lambda: binary.peek(),
            lambda: binary.read1(),
            lambda: binary.readinto(bytearray(3)),
            lambda: binary.write(b""),
            lambda: binary.writelines([]),
            lambda: text.write(""),
            lambda: text.writelines([]),
        ]
        for file in (binary, text):
            assert file.closed
            calls += [file.read, partial(file.read, 0), file.readline, file.readlines, file.flush]
            calls += [file.tell, partial(file.seek, 0), file.truncate, file.isatty, file.seekable]
            calls += [file.writable, file.__aenter__, file.__anext__]
            with pytest.raises(ValueError, match="closed file"):
                file.fileno()
            with pytest.raises(ValueError, match="closed file"):
                file.__aiter__()
        for call in calls:
            with pytest.raises(ValueError, match="I/O operation on closed file"):
                await call()

    run(main())


def test_what_a_mode_does_not_do_is_refused(run: Run, path: Path, fifo: Path) -> None:
    async def main() -> None:
        async with files.open(path) as text, files.open(path, "rb") as binary:
            for call in (text.write("x"), text.truncate(), binary.write(b"x"), binary.truncate()):
                with pytest.raises(io.UnsupportedOperation):
                    await call
        async with files.open(path, "a") as text, files.open(path, "ab") as binary:
            for read in (text.read(), text.readline(), binary.read(5), binary.peek()):
                with pytest.raises(io.UnsupportedOperation):
                    await read
            for wrong in (text.write(b"x"), binary.write("x")):  # type: ignore[arg-type]
                with pytest.raises(TypeError):
                    await wrong
        assert path.read_text(encoding="utf-8") == TEXT
        end = os.open(fifo, os.O_RDWR)
        async with files.open(fifo, "rb") as stream:
            assert not await stream.seekable()
            for call in (stream.tell(), stream.seek(0)):
                with pytest.raises(io.UnsupportedOperation, match="not seekable"):
                    await call
        os.close(end)

    run(main())


def test_seek_refuses_what_io_refuses(run: Run, path: Path) -> None:
    async def main() -> None:
        async with files.open(path) as text, files.open(path, "rb") as binary:
            for call in (text.seek(-1), text.seek(0, 7)):
                with pytest.raises(ValueError, match=r"negative seek|whence"):
                    await call
            for call in (text.seek(1, 1), text.seek(1, 2)):
                with pytest.raises(io.UnsupportedOperation, match="relative seeks"):
                    await call
            with pytest.raises(OSError, match="Invalid argument"):
                await binary.seek(-1)
            with pytest.raises(OSError, match="Invalid argument"):
                await binary.seek(0, 77)
            with pytest.raises(OSError, match="No such device or address"):
                await binary.seek(10**9, os.SEEK_DATA)
            assert await binary.seek(3, os.SEEK_DATA) == 3
            assert await text.readline() == LINES[0]

    run(main())


def test_openers_and_descriptors(run: Run, path: Path) -> None:
    async def main() -> None:
        def opener(name: str, flags: int) -> int:
            assert threading.current_thread() is not threading.main_thread()
            return os.open(name, flags)

        async with files.open(path, opener=opener, encoding="utf-8") as file:
            assert await file.readline() == LINES[0]
            assert not os.get_inheritable(file.fileno())
        with pytest.raises(ValueError, match="opener returned -2"):
            await files.open(path, opener=lambda _name, _flags: -2)
        fd = os.open(path, os.O_RDWR)
        async with files.open(fd, "r+b", closefd=False) as binary:
            assert binary.name == fd
            line = await binary.readline()
        assert os.lseek(fd, 0, os.SEEK_CUR) == len(line)  # not where it has read ahead to
        async with files.open(fd, "r+b") as binary:
            assert await binary.tell() == len(line)
            await binary.write(b"LINE")
            await binary.flush()
            assert os.lseek(fd, 0, os.SEEK_CUR) == len(line) + 4
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)

    run(main())


def test_nothing_is_opened_before_it_is_awaited(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        opening = files.open(tmp_path / "new", "w")
        await asyncio.sleep(0)
        assert not (tmp_path / "new").exists()
        file = await opening
        assert await opening is file
        await file.close()

    run(main())


def test_detach_gives_a_file_of_ios(run: Run, path: Path) -> None:
    async def main() -> None:
        file = await files.open(path, "r+b")
        line = await file.readline()
        await file.write(b"LINE")
        raw = file.detach()
        assert raw.tell() == len(line) + 4
        with pytest.raises(ValueError, match="detached"):
            await file.read()
        with pytest.raises(ValueError, match="detached"):
            await file.close()
        raw.close()
        assert path.read_bytes()[len(line) :].startswith(b"LINE")

    run(main())


def test_tasks_take_turns(run: Run, path: Path) -> None:
    """Each gets bytes of its own, and those that were called first get the first ones."""

    async def main() -> None:
        async with files.open(path, "rb") as file:
            parts = await asyncio.gather(*(file.read(7000) for _ in range(12)))
            assert b"".join(parts) == path.read_bytes()[: 12 * 7000]
            await file.seek(0)
            seen = await asyncio.gather(
                file.readline(), file.seek(0), file.readline(), file.seek(0, 2), file.readline()
            )
            first = LINES[0].encode()
            assert seen == [first, 0, first, path.stat().st_size, b""]

    run(main())


def test_iteration(run: Run, path: Path) -> None:
    async def main() -> None:
        async with files.open(path, encoding="utf-8") as file:
            seen = []
            async for line in file:
                seen.append(line)
                if len(seen) == 10:
                    break
            place = await file.tell()
            assert place == len("".join(LINES[:10]).encode())
            assert await file.__anext__() == LINES[10]
            seen.append(LINES[10])
            seen += [line async for line in file]
            assert seen == LINES
            await file.seek(0)
            lines = file.__aiter__()
            first, second = lines.__anext__(), lines.__anext__()
            assert {await second, await first} == set(LINES[:2])

    run(main())


def test_who_reads_lines_lets_others_run(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"a line\n" * 300_000)

    async def main() -> None:
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(others())
        async with files.open(path, "rb") as file:
            async for _ in file:
                pass
            seen = turns
            assert seen >= 10
            await file.seek(0)
            while await file.read(7):
                pass
            assert turns >= seen + 10
        seen = turns
        async with files.open(tmp_path / "new", "wb") as file:
            for _ in range(50_000):
                await file.write(b"x")
            assert turns >= seen + 10
        task.cancel()

    run(main())


def test_a_large_file_is_read_and_written(run: Run, tmp_path: Path) -> None:
    data = random.Random(2).randbytes(5_000_000)

    async def main() -> None:
        async with files.open(tmp_path / "new", "w+b") as file:
            for begin in range(0, len(data), 333_333):
                await file.write(data[begin : begin + 333_333])
            await file.seek(0)
            assert await file.read() == data
            await file.seek(1)
            assert await file.read(4_000_000) == data[1:4_000_001]

    run(main())
    assert (tmp_path / "new").read_bytes() == data


def test_the_writer_goes_on_until_too_much_is_under_way(run: Run, fifo: Path) -> None:
    async def main() -> None:
        reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        file = await files.open(fifo, "wb")
        written = bytearray()

        async def write() -> None:
            for number in range(100):
                part = bytes([number]) * 50_000
                await file.write(part)
                written.extend(part)

        task = asyncio.ensure_future(write())
        await until(lambda: len(written) > 1 << 20)
        await asyncio.sleep(0.05)
        assert not task.done()
        assert len(written) < (1 << 20) + 200_000
        task.add_done_callback(lambda _: asyncio.ensure_future(file.close()))
        got = bytearray()
        while not file.closed or len(got) < len(written):
            await asyncio.sleep(0)
            with suppress(BlockingIOError):
                got += os.read(reader, 1 << 20)
        assert got == written
        os.close(reader)

    run(main())


def test_all_handles_of_a_file_write_in_order(run: Run, path: Path) -> None:
    async def main() -> None:
        handles = [await files.open(path, "ab") for _ in range(4)]
        path.write_bytes(b"")
        expected, flushes = [], []
        for number in range(400):
            handle = handles[number % 4]
            line = b"%d\n" % number * (1 + number % 500)
            await handle.write(line)
            flushes.append(asyncio.ensure_future(handle.flush()))
            await asyncio.sleep(0)
            expected.append(line)
        await asyncio.gather(*flushes)
        for handle in handles:
            await handle.close()
        assert path.read_bytes() == b"".join(expected)

    run(main())


def test_reads_see_writes(run: Run, path: Path) -> None:
    async def main() -> None:
        async with files.open(path, "r+b") as file:
            for number in range(50):
                await file.seek(number * 1000)
                await file.write(b"%06d" % number)
                await file.seek(number * 1000)
                assert await file.read(6) == b"%06d" % number

    run(main())


def test_an_error_is_told_once_and_nothing_is_lost(tmp_path: Path) -> None:
    """Writes are cut short, and go on where they were cut when there is room."""
    program = """
        import asyncio, os, resource, signal
        from iowq import files

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        data = os.urandom(500_000)

        def limit(size):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

        async def fail(call):
            try:
                await call
            except OSError as error:
                assert error.errno == 27, error
            else:
                raise AssertionError("no error")

        async def main():
            limit(200_001)
            file = await files.open(os.environ["PLACE"] + "/one", "wb")
            taken = 0
            try:
                for begin in range(0, len(data), 10_000):
                    await file.write(data[begin:begin + 10_000])
                    taken = begin + 10_000
            except OSError as error:
                assert error.errno == 27
            else:
                await fail(file.flush())
            await fail(file.flush())
            assert os.path.getsize(file.name) == 200_001
            await fail(file.write(b"not taken"))
            limit(-1)
            await file.flush()
            assert open(file.name, "rb").read() == data[:taken]
            await file.write(data[taken:])
            await file.close()
            assert open(file.name, "rb").read() == data

            limit(200_001)
            file = await files.open(os.environ["PLACE"] + "/two", "ab")
            await file.write(data)
            await fail(file.close())
            assert file.closed
            file = await files.open(os.environ["PLACE"] + "/two", "ab", buffering=0)
            await fail(file.write(b"nothing"))
            await file.truncate(200_000)
            assert await file.write(b"abc") == 1
            await file.close()

        asyncio.run(main())
    """
    succeed(program, tmp_path)


def test_a_full_device(run: Run) -> None:
    async def main() -> None:
        file = await files.open("/dev/full", "wb")
        await file.write(b"x")
        with pytest.raises(OSError, match="No space left"):
            await file.flush()
        with pytest.raises(OSError, match="No space left") as caught:
            await file.close()
        assert caught.value.errno == errno.ENOSPC
        assert file.closed
        with pytest.raises(OSError, match="No space left"):
            async with files.open("/dev/full", "w") as text:
                await text.write("x")
        assert text.closed

    run(main())


def test_a_device_that_fails(run: Run) -> None:
    """Nothing is mapped at a process' first byte."""

    async def main() -> None:
        async with files.open("/proc/self/mem", "rb") as file:
            with pytest.raises(OSError, match=r"(Input/output|I/O) error"):
                await file.read(1)
            assert await file.tell() == 0
        file = await files.open("/proc/self/mem", "r+b")
        await file.write(b"x")
        for call in (file.flush, file.close):
            with pytest.raises(OSError, match=r"(Input/output|I/O) error"):
                await call()
        assert file.closed

    run(main())


def test_a_file_that_gets_shorter(run: Run, path: Path) -> None:
    async def main() -> None:
        async with files.open(path, "rb") as file:
            await file.read(20_000)
            os.truncate(path, 20_500)
            rest = await file.read()
            assert 500 <= len(rest) < path.stat().st_size
            assert await file.read(10) == b""
            assert await file.seek(0, os.SEEK_END) == 20_500

    run(main())


def test_a_wrong_byte(run: Run, tmp_path: Path) -> None:
    (tmp_path / "wrong").write_bytes(b"good\n" * 5000 + b"\xff\n")

    async def main() -> None:
        async with files.open(tmp_path / "wrong", encoding="utf-8") as file:
            for _ in range(3000):  # as in io those of other chunks aren't concerned
                assert await file.readline() == "good\n"
            with pytest.raises(UnicodeDecodeError):
                await file.read()
        with pytest.raises(UnicodeEncodeError):
            async with files.open(tmp_path / "wrong", "a", encoding="ascii") as file:
                await file.write("ü")

    run(main())


def test_a_cancelled_open_closes_what_it_opened(run: Run, fifo: Path) -> None:
    def open_other_end() -> None:
        fd = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        os.close(fd)

    async def main() -> None:
        chance = random.Random(5)
        for _ in range(200):
            task = asyncio.ensure_future(_opened(fifo))
            await asyncio.sleep(chance.uniform(0, 0.001))
            if chance.random() < 0.5:
                with suppress(OSError):  # nobody opens it yet, or any more
                    open_other_end()
            for _ in range(chance.randrange(3)):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled():
                await task.result().close()
        gc.collect()
        await until(lambda: str(fifo) not in descriptors())

    run(main())


async def _opened(path: Path) -> Any:
    return await files.open(path, "rb")


def test_a_cancelled_open_of_an_opener(run: Run, path: Path) -> None:
    async def main() -> None:
        entered, go_on = threading.Event(), threading.Event()

        def opener(name: str, flags: int) -> int:
            entered.set()
            assert go_on.wait(DEADLINE)
            return os.open(name, flags)

        async def use() -> None:
            await files.open(path, opener=opener)

        task = asyncio.ensure_future(use())
        await until(entered.is_set)
        await cancel(task)
        go_on.set()
        async with files.open(path, opener=lambda name, flags: os.open(name, flags)):
            pass
        await until(lambda: str(path) not in descriptors())

    run(main())


def test_a_cancelled_read_loses_no_byte(run: Run, fifo: Path) -> None:
    async def main() -> None:
        end = os.open(fifo, os.O_RDWR)
        file = await files.open(fifo, "rb")
        text = await files.open(os.dup(file.fileno()), "r", encoding="utf-16-le")
        for pause in range(100):  # also before it has got what is there, and while it gets it
            os.write(end, b"123")
            reading: asyncio.Future[Any] = asyncio.ensure_future(file.read(10))
            await asyncio.sleep(pause / 100_000)
            await cancel(reading)
            os.write(end, b"456789x")
            assert await file.read(10) == b"123456789x"
        os.write(end, "ab".encode("utf-16-le") + b"c")
        reading = asyncio.ensure_future(text.read(10))
        await asyncio.sleep(0.02)
        await cancel(reading)
        os.write(end, b"\0\n\0")
        assert await text.readline() == "abc\n"
        for each in (file, text):
            reading = asyncio.ensure_future(each.read(1))
            await asyncio.sleep(0.01)
            closing = asyncio.ensure_future(each.close())
            await asyncio.sleep(0.01)
            assert not closing.done()  # it waits for the read
            await cancel(reading)
            await closing
        os.close(end)

    run(main())


def test_a_cancelled_close_closes(run: Run, path: Path, fifo: Path) -> None:
    async def main() -> None:
        file = await files.open(path, "wb")
        await file.write(b"x" * 3_000_000)
        closing = asyncio.ensure_future(file.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        assert file.closed
        await until(lambda: str(path) not in descriptors())
        assert path.read_bytes() == b"x" * 3_000_000
        end = os.open(fifo, os.O_RDWR)
        stream = await files.open(fifo, "wb")
        await stream.write(b"x" * 300_000)  # nobody reads that
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(stream.close(), 0.02)
        os.close(end)
        await until(lambda: str(fifo) not in descriptors())

    run(main())


def test_ten_thousand_cancels(run: Run, tmp_path: Path) -> None:
    """At any instant: what write() has taken is in the file, once; no descriptor is lost."""
    path = tmp_path / "many"
    path.write_bytes(b"0123456789" * 100_000)
    chance = random.Random(4)

    async def one(file: Any, log: Any, number: int, taken: set[int]) -> None:
        async def write() -> None:
            await log.write(b"%08d" % number)
            taken.add(number)

        async def open_another() -> None:
            async with files.open(path, "rb") as other:
                await other.read(3)

        calls = [write, log.flush, open_another]
        calls += [lambda: file.read(chance.randrange(20_000)), file.readline, file.tell]
        calls += [lambda: file.seek(chance.randrange(900_000)), lambda: file.peek()]
        task = asyncio.ensure_future(chance.choice(calls)())
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    async def main() -> None:
        taken: set[int] = set()
        async with files.open(path, "rb") as file, files.open(tmp_path / "log", "ab") as log:
            for begin in range(0, 10_000, 50):
                await asyncio.gather(
                    *(one(file, log, number, taken) for number in range(begin, begin + 50))
                )
            place = await file.tell()
            assert await file.read(10) == path.read_bytes()[place : place + 10]
        gc.collect()
        await until(lambda: not {str(path), str(tmp_path / "log")} & descriptors())
        data = (tmp_path / "log").read_bytes()
        written = [int(data[begin : begin + 8]) for begin in range(0, len(data), 8)]
        assert len(written) == len(set(written))
        assert taken <= set(written)

    run(main())


@each_loop
def test_a_loop_is_closed_with_operations_under_way(
    new_loop: Callable[[], asyncio.AbstractEventLoop], path: Path, fifo: Path
) -> None:
    """The next one goes on with the same handles."""
    end = os.open(fifo, os.O_RDWR)

    async def begin() -> Any:
        file = await files.open(path, "w+b")
        stream = await files.open(fifo, "rb")
        for _ in range(30):
            await file.write(b"x" * 70_000)
        await file.write(b"the end")
        return file, stream, asyncio.ensure_future(stream.read(1))

    async def go_on(file: Any, stream: Any) -> None:
        await file.seek(0)
        assert await file.read() == b"x" * 2_100_000 + b"the end"
        await file.close()
        os.write(end, b"y")
        assert await stream.read(1) == b"y"
        await stream.close()

    first = new_loop()
    file, stream, reading = first.run_until_complete(begin())
    reading.cancel()
    first.run_until_complete(asyncio.sleep(0))
    first.close()
    del reading
    second = new_loop()
    second.run_until_complete(asyncio.wait_for(go_on(file, stream), DEADLINE))
    second.close()
    os.close(end)


def test_one_file_on_two_loops(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    failures: list[BaseException] = []

    async def append(name: str) -> None:
        async with files.open(path, "a") as file:
            for number in range(500):
                await file.write(f"{name} {number}\n")
                if number % 7 == 0:
                    await file.flush()

    def thread(name: str) -> None:
        try:
            asyncio.run(append(name))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=thread, args=(name,)) for name in "ab"]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not failures
    lines = path.read_text().splitlines()
    for name in "ab":
        assert [line for line in lines if line[0] == name] == [f"{name} {n}" for n in range(500)]


def test_a_handle_on_two_loops(path: Path) -> None:
    """Its operations take turns, whoever calls them."""
    failures: list[BaseException] = []
    parts: list[bytes] = []

    async def read(file: Any) -> None:
        while part := await file.read(999):
            parts.append(part)

    def thread(file: Any) -> None:
        try:
            asyncio.run(read(file))
        except BaseException as error:
            failures.append(error)

    async def opened() -> Any:
        return await files.open(path, "rb")

    file = asyncio.run(opened())
    threads = [threading.Thread(target=thread, args=(file,)) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(DEADLINE)
    assert not failures
    data = path.read_bytes()
    expected = [data[begin : begin + 999] for begin in range(0, len(data), 999)]
    assert sorted(parts) == sorted(expected)
    asyncio.run(file.close())


def test_what_is_not_written_is_written_at_exit(tmp_path: Path) -> None:
    program = """
        import asyncio, os
        from iowq import files

        async def main():
            global kept
            kept = [await files.open(f"{os.environ['PLACE']}/{n}", "w") for n in range(3)]
            for file in kept:
                await file.write("x" * 70_000 + "end")

        asyncio.run(main())
    """
    succeed(program, tmp_path)
    assert [path.read_text()[-4:] for path in tmp_path.iterdir()] == ["xend"] * 3


def test_what_can_not_be_written_at_exit_is_told(tmp_path: Path) -> None:
    program = """
        import asyncio
        from iowq import files

        async def main():
            global kept
            kept = await files.open("/dev/full", "w")
            await kept.write("x")

        asyncio.run(main())
    """
    assert "No space left on device" in succeed(program, tmp_path)


def test_a_handle_that_is_forgotten_is_closed(path: Path) -> None:
    async def main() -> None:
        file = await files.open(path, "w")
        await file.write("written")

    with pytest.warns(ResourceWarning, match="unclosed file <iowq.files.TextFile"):
        asyncio.run(main())
    assert path.read_text() == "written"
    assert str(path) not in descriptors()


def test_a_forked_child_writes_nothing_of_its_parents(tmp_path: Path) -> None:
    program = """
        import asyncio, os
        from iowq import files

        async def begin():
            file = await files.open(os.environ["PLACE"] + "/file", "a")
            await file.write("parent\\n")
            return file

        async def write(file, line):
            await file.write(line)
            await file.flush()

        file = asyncio.run(begin())
        if child := os.fork():
            assert os.waitpid(child, 0)[1] == 0
            asyncio.run(write(file, "parent again\\n"))
        else:
            asyncio.run(write(file, "child\\n"))
    """
    succeed(program, tmp_path)
    assert (tmp_path / "file").read_text() == "child\nparent\nparent again\n"


def test_a_forked_child_waits_for_nothing_of_its_parents(tmp_path: Path) -> None:
    """Neither for a turn, nor for a read that was under way."""
    program = """
        import asyncio, os
        from iowq import files

        place = os.environ["PLACE"] + "/fifo"
        os.mkfifo(place)
        end = os.open(place, os.O_RDWR)

        async def begin():
            file = await files.open(place, "rb")
            tasks = [asyncio.ensure_future(file.read(1)) for _ in range(3)]
            await asyncio.sleep(0.01)
            if child := os.fork():
                assert os.waitpid(child, 0)[1] == 0
                os.write(end, b"abc")
                assert await asyncio.gather(*tasks) == [b"a", b"b", b"c"]
                await file.close()
            else:
                asyncio._set_running_loop(None)
                asyncio.new_event_loop().run_until_complete(file.close())
                assert file.closed
                os._exit(0)

        asyncio.run(begin())
    """
    succeed(program, tmp_path)


def test_a_signal_ends_no_operation(run: Run, path: Path) -> None:
    async def main() -> None:
        signals = []
        handler = signal.signal(signal.SIGALRM, lambda *_: signals.append(1))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        try:
            async with files.open(path, "w+b") as file:
                for _ in range(200):
                    await file.write(b"x" * 20_000)
                await file.seek(0)
                assert await file.read() == b"x" * 4_000_000
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)

    run(main())


def test_an_unbuffered_file(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with files.open(tmp_path / "raw", "w+b", buffering=0) as file:
            assert await file.write(b"one\ntwo\n") == 8
            assert (tmp_path / "raw").read_bytes() == b"one\ntwo\n"
            await file.seek(0)
            assert await file.readline() == b"one\n"
            (tmp_path / "raw").write_bytes(b"one\nTWO\n")  # it has read nothing ahead
            assert await file.read() == b"TWO\n"

    run(main())


def test_line_buffering(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with files.open(tmp_path / "lines", "w", buffering=1) as file:
            assert file.line_buffering
            await file.write("one\ntw")
            assert (tmp_path / "lines").read_text() == "one\ntw"
            await file.write("o")
            assert (tmp_path / "lines").read_text() == "one\ntw"

    run(main())


def test_a_terminal_is_read_and_written(run: Run) -> None:
    async def main() -> None:
        leader, follower = os.openpty()
        async with files.open(follower, "r+") as file:
            assert file.line_buffering
            assert await file.isatty()
            reading = asyncio.ensure_future(file.readline())
            await asyncio.sleep(0.01)
            os.write(leader, b"hello\n")
            assert await reading == "hello\n"
            await file.write("answer\n")
            seen = b""
            while b"answer" not in seen:  # what was typed is shown, too
                seen += os.read(leader, 1000)
        os.close(leader)

    run(main())


def test_memory_that_changes_after_the_write_is_of_no_matter(run: Run, path: Path) -> None:
    async def main() -> None:
        async with files.open(path, "wb") as file:
            for size in (10, 100_000):
                data = bytearray(b"a" * size)
                await file.write(data)
                data[:] = b"b" * size
        assert path.read_bytes() == b"a" * 100_010

    run(main())


def test_descriptors_are_given_back(run: Run, path: Path) -> None:
    async def main() -> None:
        for _ in range(300):
            async with files.open(path, "rb") as file:
                await file.read(1)
        wait_until(lambda: str(path) not in descriptors())

    run(main())
