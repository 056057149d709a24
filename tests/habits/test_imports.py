"""Who imports whom: the folders are floors, and what stands on a floor imports only what stands lower.

docs/architecture.md draws the same floors.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

FLOORS = (
    "scripts",  # the programs
    "scripts.benchmarks",
    "scripts.guest",
    "scripts.machine",
    "scripts.asset_build.commands",
    "scripts.asset_build.audit",
    "scripts.asset_build.release",
    "scripts.asset_build.wheel",
    "scripts.asset_build.fetch",
    "scripts.asset_build",  # the ground of the build: the files that lie in the folder itself
    "supermachine_kernel",
)
"""From the top to the ground. A module is on the floor of the longest name that its own name begins with."""

LENT = {"supermachine_kernel._assets", "supermachine_kernel._version"}
"""The files of the module that the build reads too, though users of the module must not: the names begin with "_"."""


@pytest.fixture(scope="module")
def imports(project: Path) -> dict[str, set[str]]:
    """Every module of the project, and the names it imports, of modules and of what is in them."""
    files = [path for folder in ("scripts", "supermachine_kernel") for path in (project / folder).rglob("*.py")]
    return {module_name(path, project): set(imported_names(path, project)) for path in files}


def module_name(path: Path, project: Path) -> str:
    parts = path.relative_to(project).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path: Path, project: Path) -> Iterator[str]:
    """The full names that a file imports when it runs, anywhere in it; for `from a import b` that is `a.b`."""
    package = path.relative_to(project).parent.parts
    for node in running_code(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            origin = [*above, *filter(None, [node.module])]
            yield from (".".join([*origin, alias.name]) for alias in node.names)


def running_code(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of the tree, without what only a type checker reads."""
    yield tree
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            yield from running_code(node)


def own_modules(imports: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same graph between the project's modules alone."""
    return {
        module: {found for name in names for found in (name, name.rpartition(".")[0]) if found in imports} - {module}
        for module, names in imports.items()
    }


def floor(module: str) -> int:
    named = [name for name in FLOORS if f"{module}.".startswith(f"{name}.")]
    return FLOORS.index(max(named, key=len))


def without_the_packages_own_file(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """`from . import x` names the package too, whose file is running already and is not waited for."""
    return {module: {found for found in names if not module.startswith(f"{found}.")} for module, names in graph.items()}


def circles(graph: dict[str, set[str]]) -> list[str]:
    """The modules that are left once nobody is left who imports no other, or whom no other imports."""
    left = set(graph)
    while left:
        imported = {name for module in left for name in graph[module]}
        free = {module for module in left if not graph[module] & left or module not in imported}
        if not free:
            break
        left -= free
    return sorted(left)


def owner_of_private_name(name: str) -> str | None:
    """The module or package to which the first part of `name` with a leading underscore is private."""
    parts = name.split(".")
    private = [n for n, part in enumerate(parts) if part.startswith("_") and not part.endswith("__")]
    return ".".join(parts[: private[0]]) if private else None  # "" for a module such as _thread, which is nobody's


def test_no_module_imports_itself_in_a_circle(imports: dict[str, set[str]]) -> None:
    assert circles(without_the_packages_own_file(own_modules(imports))) == []


def test_what_a_module_imports_stands_on_its_own_floor_or_lower(imports: dict[str, set[str]]) -> None:
    graph = without_the_packages_own_file(own_modules(imports))
    upward = [(module, name) for module, names in graph.items() for name in names if floor(name) < floor(module)]
    assert upward == []


def test_no_program_imports_a_program(imports: dict[str, set[str]]) -> None:
    graph = own_modules(imports)
    programs = {module for module in graph if floor(module) == 0} - {"scripts"}
    assert {"scripts.wheel", "scripts.test", "scripts.audit"} <= programs
    used = {(module, name) for module, names in graph.items() for name in names & programs}
    assert used == set()


def test_no_package_uses_a_private_name_of_another(imports: dict[str, set[str]]) -> None:
    used = []
    for module, names in imports.items():
        for name in names:
            owner, lent = owner_of_private_name(name), name.rpartition(".")[0] in LENT
            if owner and not lent and not f"{module}.".startswith(f"{owner}."):
                used.append((module, name))
    assert used == []


def test_the_installed_module_imports_nothing_of_the_build(imports: dict[str, set[str]]) -> None:
    names = {name for module in imports if module.startswith("supermachine_kernel") for name in imports[module]}
    assert [name for name in names if name.split(".")[0] in ("scripts", "tests", "setuptools", "requests")] == []


def test_each_check_finds_what_it_looks_for(tmp_path: Path) -> None:
    folder = tmp_path / "scripts" / "machine"
    folder.mkdir(parents=True)
    (folder / "a.py").write_text(
        "from .b import c\nimport os\nif TYPE_CHECKING:\n    import x\ndef f():\n    from ..wheel import g\n"
    )
    assert set(imported_names(folder / "a.py", tmp_path)) == {"scripts.machine.b.c", "os", "scripts.wheel.g"}
    graph = {"top": {"a"}, "a": {"b", "low"}, "b": {"a"}, "low": set()}
    assert circles(graph) == ["a", "b"]
    assert owner_of_private_name("supermachine_kernel._write._beside") == "supermachine_kernel"
    assert owner_of_private_name("__future__.annotations") is None
    assert floor("scripts.asset_build.lock") > floor("scripts.asset_build.fetch.cache") > floor("scripts.wheel")
