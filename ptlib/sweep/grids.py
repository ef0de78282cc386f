"""Grid files: the parameters that a notebook runs with.

``read_notebook`` finds a notebook's parameters and ``read_grid`` reads a grid file. ``expand`` checks the grid against
the notebook before anything runs, and lists the runs.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import json
import reprlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from types import NoneType
from typing import Any

import nbformat
import papermill
import yaml

from ..errors import SweepError
from .inputs import Inputs

__all__ = ["OUT", "Notebook", "Parameter", "digest_of", "expand", "read_grid", "read_notebook", "run_name"]

OUT = "out"  # the sweep sets this parameter itself, to the folder of the run
SECTIONS = ("cross", "zip", "rows", "exclude")
EXPECTED_GRID = ("expected cross: {parameter: [values]}, zip: {parameter: [values]}, rows: [{parameter: value}] or "
                 "exclude: [{parameter: value}]")
TYPES = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,), "None": (NoneType,), "list": (list,),
         "List": (list,), "dict": (dict,), "Dict": (dict,)}


@dataclass(frozen=True)
class Parameter:
    """A line of a notebook's ``parameters`` cell.

    Attributes:
        annotation: the type as written, or else the type of the default.
        types: the Python types that it accepts; None for any.
        default: its value, or ``...`` if the notebook computes it or it is not plain data.
    """

    annotation: str
    types: tuple[type, ...] | None
    default: Any


@dataclass(frozen=True)
class Notebook:
    """A notebook to run.

    Attributes:
        path: of the file.
        digest: hash of its code. Outputs and text do not count, as they do not change what the notebook computes.
        parameters: {name: Parameter}, from its ``parameters`` cell.
    """

    path: Path
    digest: str
    parameters: dict[str, Parameter]


def read_notebook(path: str | Path) -> Notebook:
    """Read a notebook's code and parameters.

    Raises:
        SweepError: it is not a notebook, or has no parameters.
    """
    path = Path(path)
    try:
        digest = digest_of(nbformat.read(path, as_version=4))
        inspected = papermill.inspect_notebook(str(path))
    except Exception as error:  # nbformat and papermill raise a dozen kinds of errors for broken notebooks
        raise SweepError(f"{path} cannot be read ({_one_line(error)}); expected a notebook") from None
    if not inspected:
        raise SweepError(f"{path} has no parameters; expected a cell with the tag 'parameters', with a line such as "
                         "'seed: int = 0' for each parameter")
    parameters = {name: _parameter(about["inferred_type_name"], about["default"])
                  for name, about in inspected.items()}
    return Notebook(path, digest, parameters)


def digest_of(notebook: nbformat.NotebookNode) -> str:
    """Hash of a notebook's code."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256(json.dumps(code).encode()).hexdigest()[:16]


def _parameter(annotation: str, source: str) -> Parameter:
    try:
        default = ast.literal_eval(source)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):  # those that literal_eval documents
        default = ...
    if not _is_plain(default):
        return Parameter(annotation, _types(annotation), ...)
    if annotation == "None" and default is not None:
        annotation = type(default).__name__
    # With no annotation and the default None, any type is accepted.
    return Parameter(annotation, None if annotation == "None" else _types(annotation), default)


def _types(annotation: str) -> tuple[type, ...] | None:
    """The types that an annotation such as ``Optional[str]`` allows; None if they are not known."""
    try:
        node = ast.parse(annotation, mode="eval").body
    except (ValueError, SyntaxError):
        return None
    arguments: list[ast.expr] = []
    if isinstance(node, ast.Subscript):
        arguments, node = getattr(node.slice, "elts", [node.slice]), node.value
    name = node.id if isinstance(node, ast.Name) else ast.unparse(node)
    if name not in ("Optional", "Union"):
        return TYPES.get(name)
    known: list[type] = []
    for argument in arguments:
        types = _types(ast.unparse(argument))
        if types is None:
            return None
        known += types
    return (*known, *((NoneType,) if name == "Optional" else ()))


# --- grids --------------------------------------------------------------------------------------


# The C loader reads a file of 100,000 rows in seconds, the Python one in minutes.
class GridLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # chosen when it runs
    """Safe YAML that rejects a key that occurs twice. Plain YAML would silently keep only the last of them."""

    def flatten_mapping(self, node: Any) -> None:
        """PyYAML calls this for each mapping before it is read, and again when another mapping merges it (``<<``)."""
        if not hasattr(node, "unique"):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if twice := [key for key, count in Counter(keys).items() if count > 1]:
                raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} occurs twice", node.start_mark)
            node.unique = True
        super().flatten_mapping(node)


def read_grid(path: str | Path) -> dict:
    """The content of a grid file.

    Raises:
        SweepError: the file is missing, is not YAML, or has a key twice.
    """
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), GridLoader)
    except Exception as error:  # for impossible dates and numbers, PyYAML passes on the errors of datetime and int
        raise SweepError(f"the grid {path} cannot be read ({_one_line(error)}); expected a YAML file with "
                         f"{EXPECTED_GRID.removeprefix('expected ')}") from None


def _one_line(error: Exception) -> str:
    """The message of an error, in one line."""
    return " ".join(str(error).split()) or type(error).__name__


def expand(grid: Mapping[str, Any], notebook: Notebook) -> list[dict[str, Any]]:
    """The runs of a grid, each with all parameters of the notebook except ``out``.

    ``cross`` gives every combination of its values. ``zip`` pairs up the values of its parameters, and each of these
    rows is combined with every combination of ``cross``. ``rows`` adds single runs. Parameters that a run does not set
    have the notebook's defaults. ``exclude`` then drops every run that matches all values of one of its entries.
    Duplicates count once.

    Raises:
        SweepError: the grid has another form, sets an unknown parameter or a value of the wrong type, or leaves no run.
    """
    _check_form(grid)
    for name, value in _settings(grid):
        _check(name, value, notebook)
    defaults = {name: about.default for name, about in notebook.parameters.items()
                if name != OUT and about.default is not ...}
    axes = [[{name: value} for value in values] for name, values in grid.get("cross", {}).items()]
    if together := grid.get("zip", {}):
        axes.append([dict(zip(together, values, strict=True)) for values in zip(*together.values(), strict=True)])
    combined = [{name: value for part in parts for name, value in part.items()} for parts in product(*axes)]
    given = (combined if axes else []) + grid.get("rows", [])
    floats = {name for name, about in notebook.parameters.items() if float in (about.types or ())}
    unique: dict[str, dict[str, Any]] = {}
    excluded = grid.get("exclude", [])
    for run in given:
        run = {**defaults, **run}
        # 1 and 1.0 should be the same run.
        run |= {name: float(run[name]) for name in floats & run.keys() if type(run[name]) is int}
        if not any(all(run.get(name, ...) == value for name, value in entry.items()) for entry in excluded):
            unique.setdefault(json.dumps(run, sort_keys=True), run)
    if not unique:
        raise SweepError(f"the grid leaves none of its {len(given)} runs; expected at least one, under cross, zip or "
                         "rows, that exclude does not drop")
    return list(unique.values())


def run_name(parameters: Mapping[str, Any], notebook: Notebook, inputs: Inputs | None = None) -> str:
    """The hash that names a run's folder. It covers everything that the run depends on, so it changes after an edit.

    Args:
        parameters: of the run. Files and folders that they name count with their content.
        notebook: counts with its code.
        inputs: those of the sweep, which reads a file only once for all runs and knows the digest of ptlib's source.

    Raises:
        SweepError: a file that a parameter names cannot be read.
    """
    inputs = inputs or Inputs()
    about = [notebook.digest, parameters, inputs.code, inputs.named(parameters)]
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:16]


def _check_form(grid: Mapping[str, Any]) -> None:
    if not isinstance(grid, Mapping) or not grid or grid.keys() - set(SECTIONS):
        found = f"the sections {', '.join(map(str, grid))}" if isinstance(grid, Mapping) and grid else _short(grid)
        raise SweepError(f"the grid has {found}; {EXPECTED_GRID}")
    for section in SECTIONS[:2]:
        values = grid.get(section, {})
        if not isinstance(values, Mapping) or not all(isinstance(v, list) and v for v in values.values()):
            raise SweepError(f"the grid has {section}: {_short(values)}; expected {section}: {{parameter: [values]}}")
    for section in SECTIONS[2:]:
        entries = grid.get(section, [])
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) and entry for entry in entries):
            raise SweepError(f"the grid has {section}: {_short(entries)}; expected {section}: [{{parameter: value}}]")
    lengths = {name: len(values) for name, values in grid.get("zip", {}).items()}
    if len(set(lengths.values())) > 1:
        counted = ", ".join(f"{count} of {name}" for name, count in lengths.items())
        raise SweepError(f"the grid's zip has {counted}; expected as many values of each parameter, or use cross for "
                         "every combination")
    if twice := grid.get("cross", {}).keys() & lengths.keys():
        raise SweepError(f"the grid has {', '.join(sorted(map(str, twice)))} under cross and under zip; expected it "
                         "under one of them")


def _settings(grid: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every (parameter, value) in the grid. They are few, even if their combinations are many."""
    for section in SECTIONS[:2]:
        yield from ((name, value) for name, values in grid.get(section, {}).items() for value in values)
    for section in SECTIONS[2:]:
        yield from (setting for entry in grid.get(section, []) for setting in entry.items())


def _check(name: str, value: Any, notebook: Notebook) -> None:
    """Raise SweepError unless the notebook has a parameter ``name`` that takes ``value``."""
    known = [parameter for parameter in notebook.parameters if parameter != OUT]
    if name == OUT:
        raise SweepError(f"the grid sets {OUT!r}, which a sweep sets itself to the folder of each run; leave it out")
    if name not in known:
        close = difflib.get_close_matches(str(name), known, 1)
        raise SweepError(f"the grid sets {name!r}, which is no parameter of {notebook.path}"
                         f"{f' (did you mean {close[0]!r}?)' if close else ''}; its parameters are {', '.join(known)}")
    parameter = notebook.parameters[name]
    fits = _fits(value, parameter.types)
    if not fits or not _is_plain(value):
        raise SweepError(f"the grid sets {name} to {_short(value)} ({type(value).__name__}); {notebook.path} expects "
                         f"{'plain data' if fits else parameter.annotation}{_yaml_advice(value, parameter.types)}")


def _fits(value: Any, types: tuple[type, ...] | None) -> bool:
    if types is None:
        return True
    if isinstance(value, bool):
        return bool in types  # True is an int in Python, but in a grid it is more likely a mistake
    if isinstance(value, int) and float in types:
        return abs(value) <= sys.float_info.max  # ``expand`` converts it to float
    return isinstance(value, types)


def _is_plain(value: Any) -> bool:
    """Whether a JSON file can store it without loss."""
    try:
        return json.loads(json.dumps(value)) == value
    except (TypeError, ValueError, RecursionError):
        return False


def _yaml_advice(value: Any, types: tuple[type, ...] | None) -> str:
    if str in (types or ()):
        return "; put it in quotes"
    if isinstance(value, str) and float in (types or ()):
        try:
            return f"; YAML takes it for text, write {float(value)!r}" if "e" not in repr(float(value)) else (
                "; YAML takes 1e-5 for text, write 1.0e-5 instead")
        except ValueError:
            return ""
    return ""


def _short(value: Any) -> str:
    text = reprlib.repr(value)  # repr fails on deeply nested values
    return text if len(text) <= 60 else f"{text[:57]}..."
