"""The one-way rules of docs/architecture.md, on the source."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIBRARY, PIPELINE, BENCHMARKS, TESTS = (
    sorted((ROOT / folder).rglob("*.py")) for folder in ("tsdsr", "pipeline", "benchmarks", "tests")
)
ORCHESTRATION = {"ray", "mlflow", "dvc", "optuna"}

# Modules that everybody may import, and that import nothing but each other.
GROUND = {
    "compat",
    "config",
    "device",
    "errors",
    "files",
    "flow",
    "grain",
    "live_memory",
    "machine",
    "picture_files",
    "seeding",
}
# Above all others: nothing below imports them.
COMMANDS = {"ablation", "commands"}
# Which packages a package may import, beside the ground.
ALLOWED = {
    "models": set(),
    "losses": set(),
    "degradation": set(),
    "metrics": {"losses", "weights"},
    "data": {"degradation", "models"},
    "methods": {"models", "losses", "data", "compression"},
    "training": {"methods", "models", "losses", "data", "metrics"},
    "pictures": set(),
    "inference": {"models", "pictures"},
    "export": {"models", "inference"},
    "compression": {"models", "inference", "export"},
    "reporting": {"metrics"},
    "weights": set(),
    "peers": set(),
}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def import_graph(paths: list[Path]) -> dict[str, set[str]]:
    """Module -> the modules of `paths` that it imports, also inside functions.

    `from package import name` counts for the module `package.name` where there is one, else for the package itself.
    """
    found = {module_name(path): imported(path) - {module_name(path)} for path in paths}
    graph = {}
    for module, names in found.items():
        known = names & found.keys()
        packages = {name for name in known if any(other.startswith(f"{name}.") for other in names)}
        graph[module] = known - {name for name in packages if _only_leads(name, names, found.keys())}
    return graph


def _only_leads(package: str, names: set[str], modules: Collection[str]) -> bool:
    """Whether everything that is imported from a package is a module of its own."""
    return all(name in modules for name in names if name.rpartition(".")[0] == package)


def test_no_modules_import_each_other_in_a_circle():
    graph = import_graph([*LIBRARY, *PIPELINE, *BENCHMARKS, *TESTS])
    assert graph["pipeline.distill"] > {"pipeline.stages.training", "tsdsr.config"}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_library_knows_nothing_of_the_pipeline():
    for path in LIBRARY:
        roots = {name.split(".")[0] for name in imported(path)}
        assert not roots & (ORCHESTRATION | {"pipeline", "tests", "benchmarks"}), relative(path)


def test_imports_inside_the_library_go_one_way():
    packages = {folder.name for folder in (ROOT / "tsdsr").iterdir() if (folder / "__init__.py").is_file()}
    packages -= {"config", "commands"}
    modules = {path.stem for path in (ROOT / "tsdsr").glob("[!_]*.py")} | {"config", "commands"}
    assert packages == ALLOWED.keys(), "another package: say here and in docs/architecture.md what it may import"
    assert modules == GROUND | COMMANDS, "another module: say here and in docs/architecture.md where it stands"
    for path in LIBRARY:
        area = path.relative_to(ROOT / "tsdsr").parts[0].removesuffix(".py")
        used = {name.split(".")[1] for name in imported(path) if name.startswith("tsdsr.")} & (packages | modules)
        allowed = GROUND | ALLOWED[area] | {area} if area in packages else GROUND
        if area not in COMMANDS | {"__main__"}:
            assert used <= allowed, (relative(path), used - allowed)


def test_nothing_is_unpickled():
    for path in (*LIBRARY, *PIPELINE):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"pickle\.loads?\(|allow_pickle=True|weights_only=False|joblib\.load", text), path
        for call in re.finditer(r"torch\.load\((?:[^()]|\([^()]*\))*\)", text):
            assert "weights_only=True" in call[0], path


def test_files_stay_of_one_idea():
    """Long files are where sections hide."""
    long = {relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in (*LIBRARY, *PIPELINE)}
    limit = 360
    assert not {name: lines for name, lines in long.items() if lines > limit}
