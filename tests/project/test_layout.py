"""Imports go one way: from what users call down to the binding, and never in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[2] / "src"
#: From the top down; each may import what is in it, and what stands behind it.
FLOORS = [
    "public",
    "_celery",
    "_dask",
    "_diagnose",
    "_top",
    "_metrics",
    "_files",
    "_executor",
    "_report",
    "_cancel",
    "_work",
    "base",
]
BASE = {"iowq._arguments", "iowq._native", "iowq._once", "iowq._types", "iowq._warm_up"}


def _name(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _floor(module: str) -> int:
    if module in BASE:
        return FLOORS.index("base")
    package = [*module.split("."), ""][1]
    return FLOORS.index(package) if package in FLOORS else FLOORS.index("public")


def _nodes(tree: ast.AST) -> Iterator[ast.ImportFrom]:
    """All imports at run time, those inside of functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for other in node.orelse:
                yield from _nodes(other)
        elif isinstance(node, ast.ImportFrom):
            yield node
        else:
            yield from _nodes(node)


def _imports(path: Path, modules: set[str]) -> Iterator[str]:
    package = _name(path).split(".")
    if path.name != "__init__.py":
        package.pop()
    for node in _nodes(ast.parse(path.read_text())):
        if not node.level:
            continue
        above = package[: len(package) - node.level + 1]
        base = ".".join([*above, *([node.module] if node.module else [])])
        for alias in node.names:
            name = f"{base}.{alias.name}"
            yield name if name in modules else base


def _graph() -> dict[str, set[str]]:
    paths = {_name(path): path for path in (SOURCE / "iowq").rglob("*.py")}
    modules = {*paths, "iowq._native"}
    return {name: set(_imports(path, modules)) for name, path in paths.items()}


def test_arrows_go_down() -> None:
    up = [
        f"{module} -> {other}"
        for module, others in _graph().items()
        for other in others
        if _floor(other) < _floor(module)
    ]
    assert not up


def test_there_is_no_circle() -> None:
    graph = _graph()
    while graph:
        leaves = {name for name, others in graph.items() if not others & graph.keys() - {name}}
        assert leaves, f"they import each other: {sorted(graph)}"
        graph = {name: others for name, others in graph.items() if name not in leaves}


def test_nothing_private_is_flat() -> None:
    """What is private is in a subpackage, but for what all of them use."""
    names = {path.stem for path in (SOURCE / "iowq").glob("*.py*")}
    used_by_all = {"_arguments", "_native", "_once", "_types", "_warm_up"}
    frameworks = {"asgi", "celery", "dask", "django", "gunicorn", "starlette"}
    modules = {"__init__", "__main__", "aio", "anyio", "files", "metrics"}
    assert names == modules | frameworks | used_by_all
