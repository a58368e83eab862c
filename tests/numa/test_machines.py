"""Pools and nodes on kernels that have several, in machines that QEMU emulates.

Each machine has another topology. In each the core's tests of nodes run, and those of
the package; in one of them all of the core's tests. What an emulation doesn't show is how
much slower another node's memory is.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from core_builder import ROOT, Builder, Variant, c_tests, run
from machine import DEADLINE, Archive, boot, check_end, get_kernel, plan_line

AT_A_TIME = 2
NODE_TESTS = [(program, name) for program, name in c_tests() if program == "test_nodes"]
#: Means nothing there: see test_aarch64.py.
EXCLUDED = {"few_run_again_after_blocking"}
OTHER_TESTS = [
    (program, name)
    for program, name in c_tests()
    if program != "test_nodes" and name not in EXCLUDED
]
#: What pytest and the package need of the folders that packages are installed in.
MODULES = ["_pytest", "pytest", "py", "pygments", "pluggy", "iniconfig", "packaging", "cffi"]
MODULES += ["_cffi_backend", "iowq", "exceptiongroup", "tomli", "typing_extensions"]
NOT_NEEDED = {"site-packages", "test", "tests", "idlelib", "ensurepip", "tkinter", "lib2to3"}
NOT_NEEDED |= {"pydoc_data", "distutils"}
API_TESTS = [
    "conftest.py",
    "support/ahead.py",
    "support/support.py",
    "numa/test_nodes.py",
    "numa/test_topology.py",
]


@dataclass(frozen=True)
class Topology:
    """A machine: the CPUs and MiB of each node; how many of them have CPUs.

    The file system's 100 MiB lie on the node of whichever CPU unpacks them: with less
    than twice that, a node can be full from the start.
    """

    name: str
    nodes: tuple[tuple[str, int], ...]
    pools: int
    more: tuple[str, ...] = ()
    memory: str = ""  # further options of -m

    def command(self) -> list[str]:
        size = sum(mib for _, mib in self.nodes)
        cpus = 1 + max(int(n) for cpus, _ in self.nodes for n in re.findall(r"\d+", cpus))
        command = ["qemu-system-x86_64", "-M", "pc", "-cpu", "max", "-smp", str(cpus)]
        command += ["-m", f"{size}M{self.memory}"]
        for number, (of_node, mib) in enumerate(self.nodes):
            node = f"node,nodeid={number}"
            if mib:
                backend = f"memory-backend-ram,id=m{number},size={mib}M"
                command += ["-object", backend]
                node += f",memdev=m{number}"
            command += ["-numa", node + (f",cpus={of_node}" if of_node else "")]
        return [*command, *self.more]


def _distances(*distances: tuple[int, int, int]) -> tuple[str, ...]:
    return tuple(
        word
        for src, dst, value in distances
        for word in ("-numa", f"dist,src={src},dst={dst},val={value}")
    )


TOPOLOGIES = [
    Topology("one", (("0-1", 768),), 1),
    Topology("two", (("0-1", 512), ("2-3", 256)), 2),
    Topology(
        "four",
        (("0", 512), ("1", 256), ("2", 256), ("3", 256)),
        4,
        # from a node and to it: not the same
        _distances(
            *((a, b, 20 + 10 * abs(a - b) + a) for a in range(4) for b in range(4) if a != b)
        ),
    ),
    Topology("eight", (("0", 512), *((str(n), 256) for n in range(1, 8))), 8),
    Topology("no-memory", (("0", 512), ("1", 0), ("2", 256)), 3),
    Topology("no-cpus", (("0", 512), ("", 256), ("1", 256)), 2),
    Topology("empty", (("0", 512), ("1", 256), ("", 0)), 2, memory=",slots=2,maxmem=2G"),
]


# ---- the file system


def _libraries(path: Path) -> set[Path]:
    return {Path(name) for name in re.findall(r"(/\S+) \(0x", run(["ldd", str(path)]))}


def _python_files(folder: Path) -> Iterator[Path]:
    """All but the caches of other versions."""
    tag = f".{sys.implementation.cache_tag}"
    ends = (f"{tag}.pyc", f"{tag}-pytest-{pytest.__version__}.pyc")
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in NOT_NEEDED]
        folders[:] = [name for name in folders if not name.startswith("config-")]
        for name in names:
            if not name.endswith((".pyc", ".a")) or name.endswith(ends):
                yield Path(parent, name)


def _interpreter() -> Path:
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def _add_module(archive: Archive, name: str) -> set[Path]:
    """Adds it to the folder /site; returns its native parts."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return set()  # not for this version
    origin = Path(spec.origin)
    files = _python_files(origin.parent) if spec.submodule_search_locations else iter([origin])
    above = origin.parent.parent if spec.submodule_search_locations else origin.parent
    native = set()
    for path in files:
        archive.add_file(path, f"site/{path.relative_to(above)}")
        native |= {path} if ".so" in path.suffixes else set()
    return native


def _add_python(archive: Archive) -> None:
    standard = Path(sysconfig.get_path("stdlib"))
    native = {_interpreter()}
    for path in _python_files(standard):
        archive.add_file(path)
        native |= {path} if path.suffix == ".so" else set()
    archive.add_file(_interpreter())
    for name in MODULES:
        native |= _add_module(archive, name)
    for name in API_TESTS:
        archive.add_file(ROOT / "tests" / name, f"api/{Path(name).name}")
    for library in set().union(*map(_libraries, native)):
        archive.add_file(library)


@functools.cache
def _libnuma() -> Path:
    found = re.search(r"libnuma\.so\.1 .*=> (/\S+)", run(["/sbin/ldconfig", "-p"]))
    assert found, "libnuma.so.1 is not installed; see tests/packages.txt"
    return Path(found[1])


def _file_system(build: Path) -> bytes:
    init = build / "init"
    run(["gcc", "-O2", "-static", str(ROOT / "tests/core/guest_init.c"), "-o", str(init)])
    archive = Archive()
    programs = sorted(build.glob("test_*"))
    for path in [init, *programs, *build.glob("*.so")]:
        archive.add_file(path, path.name)
    for library in _libraries(programs[0]) | _libraries(_libnuma()) | {_libnuma()}:
        archive.add_file(library)
    unwinder = Path(run(["gcc", "-print-file-name=libgcc_s.so.1"]).strip())
    archive.add_file(unwinder, f"lib/{unwinder.name}")
    _add_python(archive)
    return archive.end()


# ---- the machines


def _node_lines(topology: Topology) -> list[str]:
    settings = {"IOWQ_NODES": str(topology.pools), "IOWQ_HOTPLUG": "1"}
    return [plan_line(*test, **settings) for test in NODE_TESTS]


def _python_line(topology: Topology) -> str:
    libraries = "LD_LIBRARY_PATH=" + ":".join(sorted({str(_libnuma().parent), "/lib"}))
    return (
        f"PYTHONPATH=/site IOWQ_NODES={topology.pools} IOWQ_HOTPLUG=1 {libraries} HOME=/tmp "
        f"{_interpreter()} -m pytest -q --color=no -p no:cacheprovider /api"
    )


def _core_line(program: str, name: str) -> str:
    """With one pool, since these tests count its workers, or fill them."""
    return plan_line(program, name, IOWQ_LIBNUMA="none")


def _plan(topology: Topology) -> list[str]:
    lines = [*_node_lines(topology), _python_line(topology)]
    if topology.name == "two":
        lines += [_core_line(*test) for test in OTHER_TESTS]
    return lines


class Machines:
    """Boots each machine once, no more than two at a time."""

    def __init__(self, folder: Path, topologies: list[Topology]) -> None:
        self._folder = folder
        self._kernel = get_kernel("amd64")
        build = Builder(folder).build(Variant("numa", ["gcc", "-O2"]))
        self._file_system = _file_system(build)
        pool = ThreadPoolExecutor(AT_A_TIME)
        self._consoles: dict[str, Future[str]] = {
            topology.name: pool.submit(self._boot, topology) for topology in topologies
        }

    def _boot(self, topology: Topology) -> str:
        plan = Archive()
        plan.add("tests", "".join(line + "\n" for line in _plan(topology)).encode())
        initrd = self._folder / topology.name
        initrd.write_bytes(self._file_system + plan.end())
        return boot(topology.command(), self._kernel, initrd, "ttyS0")

    def console(self, topology: Topology) -> str:
        return self._consoles[topology.name].result()


@pytest.fixture(scope="module")
def machines(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Machines:
    wanted: set[str] = {
        getattr(item.callspec.params["topology"], "name")  # noqa: B009 - an object to mypy
        for item in request.session.items
        if isinstance(item, pytest.Function) and "machines" in item.fixturenames
    }
    order = sorted(TOPOLOGIES, key=lambda topology: topology.name != "two")  # the longest first
    return Machines(tmp_path_factory.mktemp("numa"), [t for t in order if t.name in wanted])


TIMEOUT = pytest.mark.timeout(2 * DEADLINE + 900)  # the first one waits for all this
BY_NAME = pytest.mark.parametrize("topology", TOPOLOGIES, ids=lambda topology: topology.name)


@TIMEOUT
@BY_NAME
@pytest.mark.parametrize("number", range(len(NODE_TESTS)), ids=[name for _, name in NODE_TESTS])
def test_nodes(machines: Machines, topology: Topology, number: int) -> None:
    check_end(machines.console(topology), _node_lines(topology)[number])


@TIMEOUT
@BY_NAME
def test_package(machines: Machines, topology: Topology) -> None:
    printed = check_end(machines.console(topology), _python_line(topology))
    assert re.search(r"^\d+ passed", printed, re.MULTILINE), printed


@TIMEOUT
@pytest.mark.parametrize("topology", [t for t in TOPOLOGIES if t.name == "two"], ids=["two"])
@pytest.mark.parametrize(("program", "name"), OTHER_TESTS, ids=map("-".join, OTHER_TESTS))
def test_core(machines: Machines, topology: Topology, program: str, name: str) -> None:
    check_end(machines.console(topology), _core_line(program, name))
