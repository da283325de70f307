"""The package as a whole: its public names, the weight of its import, and who may import whom."""

import ast
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import cellwright

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
MODULES = {
    ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((SOURCE / "cellwright").rglob("*.py"))
}

STREET = [
    "errors",
    "locks",
    "graph",
    "cells",
    "printing",
    "describe",
    "cpu",
    "gpu",
    "autograd",
    "nn",
    "stream",
    "convert",
    "explanation",
    "export",
    "app",
]
"""Each part imports only what stands before it; ``cellwright`` itself is only imported by app."""

CPU_STREET = ["machine", "vector", "amx", "walk", "products", "call"]
"""The same within the CPU back end."""

APP_STREET = [
    "errors",
    "lazy",
    "bench",
    "schema",
    "problem",
    "data",
    "model",
    "training",
    "running",
    "report",
    "functions",
    "cli",
]
"""The same within the application; its facade, ``cellwright.app`` itself, is imported by cli."""

APP_LIBRARIES = ("lightning_fabric", "polars", "rich", "safetensors", "scipy", "sklearn", "typer")

MAX_LINES = 400


def imports(path: Path) -> set[str]:
    """Return the modules that a file imports anywhere, in functions too."""
    found: set[str] = set()
    for statement in ast.walk(ast.parse(path.read_text())):
        if isinstance(statement, ast.Import):
            found |= {alias.name for alias in statement.names}
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, f"{path}: relative import"
            module = statement.module or ""
            inner = {f"{module}.{alias.name}" for alias in statement.names}
            found |= {name for name in inner if name in MODULES} or {module}
    return found


IMPORTS = {name: imports(path) for name, path in MODULES.items()}


def test_public_names() -> None:
    assert cellwright.__all__ == sorted(cellwright.__all__)
    public = {name for name in vars(cellwright) if not name.startswith("_")}
    assert public - set(cellwright.__all__) <= {
        name.split(".")[1] for name in MODULES if "." in name
    }
    assert all(hasattr(cellwright, name) for name in cellwright.__all__)


def test_every_equation_function_is_public() -> None:
    trace = sys.modules["cellwright.graph.trace"]
    functions = {name for name in trace.__all__ if name.islower()} - {"projection"}
    assert functions <= set(cellwright.__all__)
    assert set(sys.modules["cellwright.errors"].__all__) <= set(cellwright.__all__)


def test_version_is_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert cellwright.__version__ == project["version"]


def test_import_is_light() -> None:
    heavy = {"llvmlite", "matplotlib", "pandas", "triton", *APP_LIBRARIES}
    program = "import sys, cellwright; print(*{m.partition('.')[0] for m in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert heavy & set(loaded.stdout.split()) == set()


@pytest.mark.parametrize("name", MODULES)
def test_the_street_is_one_way(name: str) -> None:
    if name == "cellwright":
        return
    part = name.split(".")[1]
    assert part in STREET, f"{part}: give it a place in STREET"
    for imported in IMPORTS[name]:
        top, _, rest = imported.partition(".")
        if top == "cellwright" and part != "app":
            other = rest.split(".")[0]
            assert other in STREET, f"{name} imports {imported}"
            assert STREET.index(other) <= STREET.index(part), f"{name} imports {imported}"


@pytest.mark.parametrize(("part", "street"), [("cpu", CPU_STREET), ("app", APP_STREET)])
def test_large_parts_are_streets_of_their_own(part: str, street: list[str]) -> None:
    prefix = f"cellwright.{part}."
    for name in (name for name in MODULES if name.startswith(prefix)):
        place = name.split(".")[2]
        assert place in street, f"{name}: give {place} a place in its street"
        for imported in IMPORTS[name]:
            if imported.startswith(prefix):
                other = imported.split(".")[2]
                assert street.index(other) <= street.index(place), f"{name} imports {imported}"


def test_no_modules_import_each_other() -> None:
    inside = {
        name: {other for other in found if other in MODULES} for name, found in IMPORTS.items()
    }
    TopologicalSorter(inside).prepare()  # raises CycleError, which names the cycle


def test_torch_and_llvmlite_stay_where_they_belong() -> None:
    def users(library: str) -> set[str]:
        return {
            name.removeprefix("cellwright.")
            for name, found in IMPORTS.items()
            if any(module.split(".")[0] == library for module in found)
        }

    pure = {"errors", "graph", "cells", "printing", "describe"}
    assert {name for name in users("torch") if name.split(".")[0] in pure} == {"graph.interpret"}
    assert {name.split(".")[0] for name in users("llvmlite")} <= {"cpu"}
    assert {name.split(".")[0] for name in users("triton")} <= {"gpu"}
    for library in APP_LIBRARIES:
        assert {name.split(".")[0] for name in users(library)} <= {"app"}


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "examples"])
def test_files_are_short(folder: str) -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text().splitlines())
        for path in (ROOT / folder).rglob("*.py")
    }
    assert {path: lines for path, lines in lengths.items() if lines >= MAX_LINES} == {}


def test_a_cell_file_is_its_equations() -> None:
    for path in (SOURCE / "cellwright" / "cells").glob("*.py"):
        assert len(path.read_text().splitlines()) <= 40, path.name
