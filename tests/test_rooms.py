"""The rooms of the package: imports run one way, and each heavy library has one room."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ptlib

PACKAGE = Path(ptlib.__file__).parent
# A module may import from its own room and from those before it.
ROOMS = ("", "models", "tasks", "prompts", "evaluation", "moving", "tuning", "zoo", "sweep", "lab")
ONLY_IN = {"dask": "sweep", "distributed": "sweep", "papermill": "sweep", "nbconvert": "sweep", "peft": "lab.races",
           "ipywidgets": "lab.widgets", "anywidget": "lab.widgets", "matplotlib": "lab", "seaborn": "lab",
           "sentencepiece": "zoo"}
MODULES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")
           if path.parent != PACKAGE or path.stem != "__init__"}


def imports_of(module: str) -> set[str]:
    """What a module imports as it runs: of ptlib by its name there, ``"models.lm"``, of others by their first name."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    ifs = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    for_types = [node for node in ifs if ast.unparse(node.test) == "TYPE_CHECKING"]
    unseen = {id(inner) for node in for_types for inner in ast.walk(node)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in unseen:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = [*module.split(".")[:-node.level], *(node.module or "").split(".")]
            inside = ".".join(filter(None, base))
            whole = {f"{inside}.{alias.name}".strip(".") for alias in node.names} & MODULES.keys()
            found |= whole or {inside}
    return found


IMPORTS = {module: imports_of(module) for module in MODULES}


def room_of(module: str) -> str:
    return module.rpartition(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module):
    later = ROOMS[ROOMS.index(room_of(module)) + 1:]
    assert not [other for other in IMPORTS[module] & MODULES.keys() if room_of(other) in later]


def test_there_is_no_circle():
    inside = {module: imports & MODULES.keys() for module, imports in IMPORTS.items()}
    assert len(list(TopologicalSorter(inside).static_order())) == len(MODULES)  # a circle raises


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_heavy_library_has_one_room(library):
    place = ONLY_IN[library]
    users = {module for module, imports in IMPORTS.items() if library in imports}
    assert all(f"{user}.".startswith(f"{place}.") for user in users), users


def test_ptlib_is_imported_without_what_only_a_model_or_a_sweep_needs():
    loaded = "import sys, ptlib; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    modules = subprocess.run([sys.executable, "-c", loaded], cwd=PACKAGE.parent, capture_output=True, text=True,
                             check=True).stdout.split()
    assert {"ptlib", "torch"} <= set(modules)
    assert not {*ONLY_IN, "transformers", "huggingface_hub", "scipy", "sympy", "gguf"} & set(modules)


def test_rooms_are_one_level_deep_and_tests_mirror_them():
    here = Path(__file__).parent
    assert {room_of(module) for module in MODULES} == set(ROOMS)
    assert all((here / room).is_dir() for room in ROOMS)
    folders = {path.parent.name for path in here.glob("*/test_*.py")}
    assert folders - {"notebooks"} == set(ROOMS) - {""}


def test_no_public_name_is_that_of_a_room():
    assert not {name for name in ptlib.__all__ if callable(getattr(ptlib, name))} & set(ROOMS)
    for module in MODULES:
        if module.count(".") == 1 and not module.endswith(("__init__", "__main__")):
            names = __import__(f"ptlib.{module}", fromlist=["__all__"]).__all__
            assert not set(names) & set(ROOMS), module
