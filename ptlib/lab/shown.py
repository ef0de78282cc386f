"""What the explorer's drawn part shows, as plain values: ``picture.js`` draws them and computes nothing."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor

from ..moving.anchors import Anchors
from ..moving.relative import encode
from .explorations import Exploration, gained_and_lost
from .plane import Plane, linked_planes

__all__ = ["LinkedMap", "answers_shown", "results_shown"]

MAP_WORDS = 3000  # the most frequent ones; more could not be told apart
BARS = 6  # the heaviest words of a mixture's vector that can be dragged


class LinkedMap:
    """The shared words of the first source and the target in their linked planes; see ``linked_planes``."""

    def __init__(self, exploration: Exploration):
        self.words: Anchors = exploration.words.frequent(MAP_WORDS)
        self.names = {"source": exploration.sources[0].name, "target": exploration.target.name}
        both = exploration.sources[0], exploration.target
        self.planes: dict[str, Plane] = dict(zip(self.names, linked_planes(self.words, *both), strict=True))
        self.points = {side: _rounded(self.planes[side].of(self.words.of(lm)), 4)
                       for side, lm in zip(self.names, both, strict=True)}

    def shown(self) -> dict[str, Any]:
        """The words and where they lie on both sides."""
        return {"words": list(self.words.words), "names": self.names, **self.points}


def results_shown(exploration: Exploration, linked: LinkedMap, pinned: Exploration | None = None,
                  tuned: Exploration | None = None) -> dict[str, Any]:
    """One setting's results.

    Args:
        exploration: the setting.
        linked: the map of its pair.
        pinned: a setting to compare with, in place of the source's answers.
        tuned: the same setting with the mixture as it was tuned, whose heaviest words are the bars; the exploration
            itself if None.
    """
    sides = {"source": (exploration.prompts[0], exploration.sources[0]),
             "target": (exploration.moved, exploration.target)}
    return {
        "title": exploration.title, "setting": exploration.summary, "code": exploration.code,
        "subjects": [example.subject for example in exploration.outcome.examples],
        "stars": {side: _rounded(linked.planes[side].of(prompt.vectors), 4) for side, (prompt, _) in sides.items()},
        "cosines": {side: _percent(encode(*both, linked.words).T) for side, both in sides.items()},
        "nearest": _nearest(exploration), "scores": _scores(exploration, pinned),
        "facts": _facts(exploration, pinned), "mixture": _mixture(exploration, tuned or exploration),
    }


def answers_shown(exploration: Exploration, subject: str) -> dict[str, Any]:
    """The answers of both models to a subject, and its object if it is among the facts that were scored."""
    table = exploration.answers(subject)
    objects = {example.subject: example.object for example in exploration.outcome.examples}
    rows = [{side: [row[side, "word"], round(float(row[side, "probability"]), 4)] for side in ("source", "target")}
            for _, row in table.iterrows()]
    names = {"source": exploration.sources[0].name, "target": exploration.target.name}
    return {"names": names, "rows": rows, "object": objects.get(subject)}


def _nearest(exploration: Exploration) -> list[dict[str, Any]]:
    rows = []
    for place, row in exploration.nearest.iterrows():
        vector, rank = cast(tuple[int, int], place)
        of_vector = exploration.nearest.loc[vector]
        both = set(of_vector["source", "word"]) & set(of_vector["moved", "word"])
        cells = {shown: [row[side, "word"], round(float(row[side, "cosine"]), 3)]
                 for shown, side in (("source", "source"), ("target", "moved"))}
        rows.append({"vector": vector, "rank": rank, "both": sorted(both), **cells})
    return rows


def _scores(exploration: Exploration, pinned: Exploration | None) -> list[dict[str, Any]]:
    def beside(label: str) -> float | None:
        same = pinned is not None and pinned.evaluations.get(label)
        return same.p_at_1 if same else None

    return [{"label": label, "p": one.p_at_1, "low": one.interval[0], "high": one.interval[1], "n": one.n,
             "pinned": beside(label)} for label, one in exploration.evaluations.items()]


def _facts(exploration: Exploration, pinned: Exploration | None) -> dict[str, Any]:
    same = pinned is not None and pinned.task.name == exploration.task.name
    source = next(iter(exploration.evaluations.values()))
    table = gained_and_lost(pinned.outcome if pinned and same else source, exploration.outcome)
    parts = {change: table.loc[table["change"] == change, ["subject", "object", "instead"]].to_numpy().tolist()
             for change in ("gained", "lost")}
    against = "the pinned setting" if same else f"the answers of {exploration.sources[0].name} with its own prompt"
    return {"against": against, **parts}


def _mixture(exploration: Exploration, tuned: Exploration) -> list[list[dict[str, Any]]]:
    mixture, own = exploration.prompts[0].mixture, tuned.prompts[0].mixture
    if mixture is None or own is None:
        return []
    columns = {word: i for i, word in enumerate(mixture.words)}
    return [[{"word": word, "weight": round(float(mixture.weights[vector, columns[word]]), 4)}
             for word in own.leading(vector, BARS)] for vector in range(len(own.gains))]


def _percent(values: Tensor) -> list[int]:
    """All values of a table, row by row, as one list: a thousand short lists take longer to send than their numbers."""
    return (100 * values.detach().cpu()).round().int().flatten().tolist()


def _rounded(values: Tensor, digits: int) -> list[list[float]]:
    return [[round(value, digits) for value in row] for row in values.detach().cpu().double().tolist()]
