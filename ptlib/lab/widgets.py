"""The interactive explorer: knobs, and a picture that is drawn in the page (``picture.js``).

``panel`` is the whole. ``explore``, ``Explorer`` and ``draw`` are what it shows, and work without it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets

from ..errors import PromptTransferError
from ..moving import methods
from ..moving.methods import METHODS
from ..moving.search import NORMALIZATIONS, RIDGES
from ..tasks.loading import title_of
from .explorations import Exploration, Explorer, Kept, explore
from .figure import as_png, draw
from .shown import LinkedMap, answers_shown, results_shown

__all__ = ["Exploration", "Explorer", "Panel", "Picture", "draw", "explore", "panel"]

HERE = Path(__file__).parent
REMEMBERED = 30  # settings in the history
DEFAULT = "default"  # of knobs whose default is the method's; not None, which a dropdown cannot go back to
LOOK = {"style": {"description_width": "7.5em"}, "layout": {"width": "auto", "flex": "1 1 18em", "max_width": "26em"}}


class Picture(anywidget.AnyWidget):
    """The drawn part: the results of one setting, and what the reader does with them. ``picture.js`` says how."""

    _esm = HERE / "picture.js"
    _css = HERE / "picture.css"
    map = traitlets.Dict().tag(sync=True)
    shown = traitlets.Dict().tag(sync=True)
    doing = traitlets.Unicode().tag(sync=True)
    failure = traitlets.Unicode().tag(sync=True)
    answers = traitlets.Dict().tag(sync=True)
    history: traitlets.List = traitlets.List().tag(sync=True)
    subject = traitlets.Unicode().tag(sync=True)
    weights = traitlets.Dict().tag(sync=True)


@dataclass(frozen=True, eq=False)
class Past:
    """A setting that was shown: the values of the knobs, the changed weights, and the results."""

    number: int
    values: dict[str, Any]
    weights: dict[str, float]
    exploration: Exploration


def panel(explorer: Explorer, *, seed: int = 0) -> Panel:
    """Knobs for every argument of ``Explorer.explore``, and the picture of the current setting.

    If a setting is not possible, the library's error message stands above the last picture, which is dimmed.

    Args:
        explorer: keeps the prompts that the panel tunes.
        seed: the initial value of the seed.
    """
    return Panel(explorer, seed)


class Panel(ipywidgets.VBox):
    """The explorer's panel. A page without a kernel shows it as the static figure of ``draw``.

    Attributes:
        knobs: {name: widget} of everything but the method's own options.
        own: {option: widget} of the chosen method.
        picture: the drawn part.
        exploration: the results that the picture shows; None before the first.
    """

    def __init__(self, explorer: Explorer, seed: int = 0):
        super().__init__()
        self.explorer = explorer
        self.exploration: Exploration | None = None
        self._past: list[Past] = []
        self._count = 0  # lines of the history so far
        self._pinned: Past | None = None
        self._found, self._maps = Kept(64), Kept(8)
        self._quiet = True  # while several knobs change at once
        self.picture = Picture()
        self.own: dict[str, ipywidgets.Widget] = {}
        self.knobs = _knobs(explorer, seed)
        self._own_box = ipywidgets.HBox(layout={"flex_flow": "row wrap"})
        self._bar = ipywidgets.Output()  # where a tuning's progress bar stands
        for knob in self.knobs.values():
            knob.observe(self._turned, "value")
        self.picture.observe(self._turned, "weights")
        self.picture.observe(self._ask, "subject")
        self.picture.on_msg(self._told)
        self._fit_knobs()
        self._quiet = False
        self.refresh()
        knobs = ipywidgets.HBox([*self.knobs.values(), self._own_box], layout={"flex_flow": "row wrap"})
        self.children = [knobs, self._bar, self.picture]

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        if bundle is None or self.exploration is None:
            return bundle
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        return {**data, "image/png": as_png(draw(self.exploration)), "text/plain": repr(self.exploration)}, metadata

    # --- from knobs to results ---

    @property
    def setting(self) -> dict[str, Any]:
        """The arguments of ``Explorer.explore`` that the knobs and the bars stand for."""
        values = {name: knob.value for name, knob in self.knobs.items()}
        num = values.pop("num_anchors")
        setting = {**values, "source": list(values.pop("source")), "num_anchors": None if num == DEFAULT else num}
        if num == DEFAULT:
            setting["select"] = "all"
        if setting["normalize"] == DEFAULT or self.knobs["normalize"].disabled:
            del setting["normalize"]
        if setting["strength"] == "none":
            setting["strength"] = None
        own = {name: None if knob.value == "all" else knob.value for name, knob in self.own.items()}
        return {**setting, **own, "weights": {_place(key): weight for key, weight in self.picture.weights.items()}}

    def refresh(self) -> None:
        """Compute and show the current setting, or say why that is not possible."""
        setting, picture = self.setting, self.picture
        untuned = self._untuned(setting)
        picture.doing = f"tuning on {' and '.join(untuned)} …" if untuned else "transferring …"
        try:
            found, tuned = self._result(setting), self._result({**setting, "weights": {}})
            pinned = self._pinned.exploration if self._pinned else None
            linked = self._maps.once(lambda: LinkedMap(found), *found.sources[:1], found.target, len(found.words))
            with picture.hold_sync():  # one message, so that map and results change together
                self.exploration = found
                picture.map = linked.shown()
                self._remember(found)
                picture.shown = results_shown(found, linked, pinned, tuned)
                picture.failure = ""
            self._ask()
        except PromptTransferError as error:
            picture.failure = str(error)
        finally:
            picture.doing = ""
            if untuned:
                self._bar.clear_output()

    def _result(self, setting: dict[str, Any]) -> Exploration:
        def explored() -> Exploration:
            with self._bar:  # the bar of a tuning, which is left out of the page's other outputs
                try:
                    found: Exploration | PromptTransferError = self.explorer.explore(**setting, progress=True)
                except PromptTransferError as error:  # an Output swallows what is raised in its block
                    found = error
            if isinstance(found, PromptTransferError):
                raise found
            return found

        hashable = {**setting, "source": tuple(setting["source"]), "task": setting["task"].name,
                    "weights": tuple(setting["weights"].items())}
        return self._found.once(explored, *hashable.items())

    def _untuned(self, setting: dict[str, Any]) -> list[str]:
        """The LMs on which a prompt has to be tuned first."""
        seed, task, kind = setting["seed"], setting["task"], setting["parameterization"]
        names = tuple(lm.name for lm in setting["source"])
        wanted = [(names, kind)] if kind == "mixture" else [((name,), kind) for name in names]
        wanted.append(((setting["target"].name,), "vectors"))
        return [" + ".join(of) for of, kind in dict.fromkeys(wanted)
                if (of, task.name, seed, kind) not in self.explorer.prompts]

    # --- what the reader does ---

    def _turned(self, change: Any) -> None:
        if self._quiet:
            return
        self._quiet = True
        if change["owner"] is not self.picture and change["owner"] in [
                self.knobs[name] for name in ("source", "task", "seed", "parameterization")]:
            self.picture.weights = {}  # they were of another prompt
        self._fit_knobs()
        self._quiet = False
        self.refresh()

    def _fit_knobs(self) -> None:
        """Show the methods of the kind of prompt, and the options of the method."""
        method, kind = self.knobs["method"], self.knobs["parameterization"].value
        names = ["auto", *(name for name, one in METHODS.items() if kind == "mixture" or not one.needs_mixtures)]
        if tuple(names) != method.options:
            chosen = method.value if method.value in names else "auto"
            method.options, method.value = names, chosen
        scaled = method.value != "auto" and METHODS[method.value].normalize != "none"
        self.knobs["normalize"].disabled = not scaled
        kinds = METHODS[method.value].kinds if method.value != "auto" else {}
        if self.own.keys() != kinds.keys() - {"progress"}:
            defaults = METHODS[method.value].options if kinds else {}
            self.own = {name: _option(name, of, defaults[name]) for name, of in kinds.items() if name != "progress"}
            for knob in self.own.values():
                knob.observe(self._turned, "value")
            self._own_box.children = list(self.own.values())
        self.knobs["select"].disabled = self.knobs["num_anchors"].value == DEFAULT

    def _ask(self, _: Any = None) -> None:
        if self.picture.subject and self.exploration:
            try:
                self.picture.answers = answers_shown(self.exploration, self.picture.subject)
            except PromptTransferError as error:
                self.picture.answers = {"failure": str(error)}

    def _told(self, _: Any, message: dict[str, Any], __: Any) -> None:
        actions: dict[str, Callable[[int], None]] = {"pin": self._pin, "restore": self._restore}
        if message["do"] in actions:
            actions[message["do"]](message["number"])
        elif self.exploration:
            name, kind, content = _exported(self.exploration, message["do"])
            self.picture.send({"name": name, "type": kind}, [content])

    # --- the history ---

    def _remember(self, found: Exploration) -> None:
        """Put the setting into the history as its last line.

        It takes the place of the line that it had before, if it was there; or of the last line, if only its weights
        were changed and nothing is compared with it.
        """
        values = {name: knob.value for name, knob in {**self.knobs, **self.own}.items()}
        old = next((past for past in self._past if past.exploration is found), None)
        if old is None and self._past and self._past[-1].values == values and self._past[-1] is not self._pinned:
            old = self._past[-1]
        if old is None:
            self._count += 1
        now = Past(old.number if old else self._count, values, dict(self.picture.weights), found)
        if old is not None and old is self._pinned:
            self._pinned = now
        self._past = [*(past for past in self._past if past is not old), now][-REMEMBERED:]
        self._list()

    def _list(self) -> None:
        kept = self._past if self._pinned is None or self._pinned in self._past else [self._pinned, *self._past]
        self.picture.history = [
            {"number": past.number, "text": _described(past), "p": past.exploration.outcome.p_at_1,
             "pinned": past is self._pinned, "current": past.exploration is self.exploration}
            for past in reversed(kept)]

    def _line(self, number: int) -> Past:
        return next(past for past in [*self._past, self._pinned] if past and past.number == number)

    def _pin(self, number: int) -> None:
        """Compare with this setting from now on, or with the source again if it was pinned."""
        past = self._line(number)
        self._pinned = None if past is self._pinned else past
        self.refresh()

    def _restore(self, number: int) -> None:
        """Turn all knobs to where they were."""
        past = self._line(number)
        self._quiet = True
        for name in ("parameterization", "method"):  # what the other knobs depend on
            self.knobs[name].value = past.values[name]
            self._fit_knobs()
        for name, knob in {**self.knobs, **self.own}.items():
            knob.value = past.values[name]
        self._fit_knobs()
        self.picture.weights = past.weights
        self._quiet = False
        self.refresh()


def _knobs(explorer: Explorer, seed: int) -> dict[str, ipywidgets.Widget]:
    lms = [(lm.name, lm) for lm in explorer.lms]
    powers = [2 ** i for i in range(4, min(len(lm.words) for lm in explorer.lms).bit_length())]
    return {
        "source": ipywidgets.SelectMultiple(options=lms, index=(0,), rows=min(3, len(lms)), description="source",
                                            tooltip="several: hold Ctrl or Shift", **LOOK),
        "target": _dropdown("target", lms, index=min(1, len(lms) - 1)),
        "task": _dropdown("relation", [(title_of(task.name), task) for task in explorer.tasks]),
        "parameterization": _dropdown("prompt", [("mixture of words", "mixture"), ("free vectors", "vectors")]),
        "method": _dropdown("method", ["auto"]),
        "normalize": _dropdown("normalisation", [DEFAULT, *NORMALIZATIONS]),
        "num_anchors": _dropdown("anchors", [("default", DEFAULT), *((str(n), n) for n in powers)]),
        "select": _dropdown("of these", ["random", "frequent"]),
        "strength": _dropdown("calibration", [("none", "none"), ("chosen", "auto"), ("0.25", 0.25), ("0.5", 0.5),
                                              ("1", 1.0)]),
        "seed": ipywidgets.BoundedIntText(seed, min=0, max=2 ** 31 - 1, description="seed", **LOOK),
    }


def _option(name: str, kind: methods.Kind, default: Any) -> ipywidgets.Widget:
    """A widget for an option of a method, by the kind of its values."""
    label = name.replace("_", " ")
    if kind is methods.SWITCH:
        return _dropdown(label, [("no", False), ("yes", True)], index=int(default))
    if kind is methods.RIDGE:
        return _dropdown(label, ["auto", *RIDGES])
    if kind is methods.COUNT_OR_ALL:
        return _dropdown(label, ["all", 1, 3, 10, 30, 100, 300, 1000])
    if kind is methods.RATE:
        return ipywidgets.FloatText(default, description=label, continuous_update=False, **LOOK)
    return ipywidgets.BoundedIntText(default, min=int(kind is methods.COUNT), max=100_000, description=label, **LOOK)


def _dropdown(label: str, options: Sequence[Any], index: int = 0) -> ipywidgets.Dropdown:
    return ipywidgets.Dropdown(options=options, index=index, description=label, **LOOK)


def _place(key: str) -> tuple[int, str]:
    """``"0 speak"``, as the picture names a word of a vector, is ``(0, "speak")``."""
    vector, _, word = key.partition(" ")
    return int(vector), word


def _described(past: Past) -> str:
    changed = [f"{key.partition(' ')[2]} {weight:.0%}" for key, weight in past.weights.items()]
    return f"{past.number}. {', '.join([past.exploration.summary, *changed, past.exploration.title])}"


def _exported(exploration: Exploration, what: str) -> tuple[str, str, bytes]:
    """(file name, MIME type, content) of the picture, the moved prompt, or the code."""
    name = f"{Path(exploration.task.name).stem}-{Path(exploration.target.name).name}"
    if what == "picture":
        return f"{name}.png", "image/png", as_png(draw(exploration))
    if what == "code":
        return f"{name}.py", "text/x-python", exploration.code.encode()
    with tempfile.TemporaryDirectory() as folder:
        return f"{name}.safetensors", "application/octet-stream", exploration.moved.save(
            Path(folder) / "prompt.safetensors").read_bytes()
