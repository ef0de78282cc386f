"""Drawings of ideas, one for each part of the tutorial: ``make figures`` keeps them in ``notebooks/images``.

The words and numbers in them are made up. What is done with them is done by ptlib's own functions, where the drawing
is of one. All can be read in greyscale, by position, lightness or line style.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle
from torch import Tensor
from torch.nn.functional import normalize

from ..moving.relative import mean_relative, relative_representation
from ..moving.search import closed_form, gradient_search, matching_loss

__all__ = ["IDEAS", "idea", "kind_of_answer", "one_step", "same_rows", "same_weights", "search_path", "two_sources"]

# Embeddings of the same words in three models, in the plane, and a vector of a prompt in two of them: both sources.
WORDS = ("piano", "plays", "music", "city", "born")
SOURCE = torch.tensor([[1.0, 0.5], [0.05, 1.05], [0.8, -0.2], [-0.85, 0.4], [-0.5, -0.75]], dtype=torch.double)
TARGET = torch.tensor([[-0.62, 0.95], [-1.0, -0.15], [0.12, 0.9], [-0.15, -1.0], [0.78, -0.42]], dtype=torch.double)
SECOND = torch.tensor([[0.25, -1.0], [1.0, -0.35], [-0.45, -0.85], [0.1, 1.0], [-0.95, 0.15]], dtype=torch.double)
PROMPT = torch.tensor([0.78, 1.05], dtype=torch.double)
SECOND_PROMPT = torch.tensor([1.06, -0.75], dtype=torch.double)


def idea() -> Figure:
    """The idea as a figure: a prompt's vector, its cosines to shared words, and the target's vector with the same ones.

    The words are made up; what is done with them is what ``transfer`` does, section 3.2 and 3.3 of the paper.
    """
    relative = relative_representation(PROMPT, SOURCE)
    found = closed_form(relative, TARGET) * PROMPT.norm()
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    here, between, there = figure.subplots(1, 3, width_ratios=[1, 1.15, 1])
    _draw_space(here, SOURCE, {"prompt": PROMPT}, "1. tuned on the source")
    _draw_space(there, TARGET, {"prompt": found}, "3. the vector of the target\nwith nearly the same cosines")
    _draw_pairs(between, {"in the source": relative, "in the target": relative_representation(found, TARGET)},
                "2. described by words\nthat both models know")
    between.legend(loc="lower right", frameon=False, fontsize=9)
    return figure


def one_step() -> Figure:
    """One step of tuning: the free vectors stand among words, and the loss of the answer moves them alone.

    It is the loss of section 3.1 of the paper, −log p(y|x, v₁ … v_m). The model, the words and the numbers are made up.
    """
    figure = Figure(figsize=(10, 5), layout="constrained")
    ax = figure.subplots()
    ax.set(xlim=(0, 100), ylim=(0, 50), aspect="equal")
    ax.set_axis_off()
    free = [f"$v_{i}$" for i in range(1, 6)]
    slots = ["Miles", "Davis", *free, "[MASK]", "."]
    at = {name: 8 + 10.4 * i for i, name in enumerate(slots)}
    middle, answer = at[free[2]], at["[MASK]"]
    forward = {"arrowstyle": "-|>", "color": "0.55", "lw": 1.5, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 14}
    backward = forward | {"color": "0.05", "lw": 2, "ls": (0, (3, 1.2))}

    numbers = torch.randn(len(slots), 4, generator=torch.Generator().manual_seed(1)) / 1.5
    for (name, x), column in zip(at.items(), numbers.tolist(), strict=True):
        tuned = name in free
        ax.add_patch(Rectangle((x - 2, 5.9), 4, 13.2, fill=False, ec="0.05" if tuned else "0.65",
                               lw=2.5 if tuned else 1))
        _draw_squares(ax, [x] * 4, [17.2 - 3.1 * i for i in range(4)], column, 2.6)
        ax.text(x, 4.2, name, ha="center", va="center", fontsize=14 if tuned else 11)
        ax.annotate("", (x - 1.1 * tuned, 24), (x - 1.1 * tuned, 19.2), arrowprops=forward)
        if tuned:
            ax.annotate("", (x + 1.1, 19.2), (x + 1.1, 24), arrowprops=backward)
    for x, text, weight in (((at["Miles"] + at["Davis"]) / 2, "words: frozen", "normal"),
                            (middle, "free vectors: all that is tuned", "bold"),
                            ((answer + at["."]) / 2, "also frozen", "normal")):
        ax.text(x, 0.8, text, ha="center", va="center", fontsize=11, weight=weight)

    ax.add_patch(FancyBboxPatch((3, 24), 94, 6.5, boxstyle="round,pad=0,rounding_size=1.5", fc="0.92", ec="0.4"))
    ax.text(middle, 27.2, "language model: frozen", fontsize=13, ha="center", va="center")
    ax.annotate("", (answer, 35.3), (answer, 30.5), arrowprops=forward)
    ax.text(answer - 10.5, 48.6, "its answers", fontsize=11, va="center")
    answers = {"piano": 0.34, "trumpet": 0.30, "drums": 0.11}
    for i, (word, p) in enumerate(answers.items()):
        y, right = 45 - 3.6 * i, word == "trumpet"
        ax.text(answer - 0.8, y, word, ha="right", va="center", fontsize=11, weight="bold" if right else "normal")
        ax.add_patch(Rectangle((answer, y - 1.2), 36 * p, 2.4, fc="0.25" if right else "0.85", ec="0.25"))
        ax.text(answer + 36 * p + 1, y, f"{p:.2f}", va="center", fontsize=11)
    ax.text(middle, 41.4, f"loss = −log p(trumpet) = {-math.log(answers['trumpet']):.2f}", fontsize=12, ha="center",
            va="center", bbox={"fc": "white", "ec": "0.25", "pad": 6})
    ax.annotate("", (middle + 15.5, 41.4), (answer - 10.5, 41.4), arrowprops=forward)
    ax.annotate("", (middle, 30.5), (middle, 39), arrowprops=backward)
    for y, style, text in ((47, forward, "forward: all slots"),
                           (43.6, backward, "gradient: to the free\nvectors, nowhere else")):
        ax.annotate("", (9, y), (3, y), arrowprops=style)
        ax.text(10.5, y + 0.7, text, fontsize=11, va="top" if "\n" in text else "center")
    return figure


def same_rows() -> Figure:
    """Words in two models: their coordinates have nothing in common, their cosines to shared words nearly all.

    The cosines are the relative representation r = cos(v, A) of section 3.2 of the paper. Both models have the same
    meanings in three dimensions, made up, turned at random into spaces of different width, with some noise.
    """
    meanings = {"trumpet": [1.0, -0.2, 0.1], "drums": [0.7, 0.0, 0.6], "Paris": [-0.2, 1.0, -0.1],
                "Rome": [0.1, 0.8, 0.5]}
    shared = torch.tensor([[1.0, 0.1, -0.2], [0.5, -0.4, 0.9], [0.9, 0.2, 0.3], [-0.1, 1.0, -0.3], [-0.5, 0.2, 1.0]])
    draw = torch.Generator().manual_seed(4)
    figure = Figure(figsize=(8.4, 5.6), layout="constrained")
    axes = figure.subplots(2, 2, width_ratios=[7, 5.4])
    for (model, width), (coordinates, cosines) in zip({"source": 5, "target": 7}.items(), axes, strict=True):
        turn = torch.linalg.qr(torch.randn(width, width, generator=draw)).Q[:3]
        anchors, words = (table @ turn + 0.06 * torch.randn(len(table), width, generator=draw)
                          for table in (shared, torch.tensor(list(meanings.values()))))
        _draw_table(coordinates, words, list(meanings), [f"{i + 1}" for i in range(width)])
        _draw_table(cosines, relative_representation(words, anchors), list(meanings), WORDS)
        coordinates.set(ylabel=model, xlabel=f"{width} dimensions", anchor="W")
        cosines.set(ylabel=model, xlabel="shared words", anchor="W")
    for ax, title in zip(axes[0], ("their coordinates:\nnot comparable", "their cosines to shared words:\nalike"),
                         strict=True):
        ax.set_title(title, loc="left")
    figure.supxlabel("A square's area is the size of a number: black above 0, white below. All are made up.",
                     fontsize=10)
    return figure


def search_path() -> Figure:
    """The search in a plane: the matching loss by direction, its steps down to the optimum, and the closed form there.

    Section 3.3 of the paper. The steps are those of ``gradient_search``, the star is ``closed_form``.
    """
    relative = relative_representation(PROMPT, SOURCE)
    path = torch.stack([gradient_search(relative[None, None], TARGET, TARGET, steps=steps, seed=3)[0, 0]
                        for steps in (0, 25, 50, 75, 100, 150, 200, 250, 300, 350, 500)]).double()
    best = normalize(closed_form(relative, TARGET), dim=-1)
    figure = Figure(figsize=(10, 4.3), layout="constrained")
    plane, valley = figure.subplots(1, 2, width_ratios=[1.05, 1])

    across = torch.linspace(-1.7, 1.7, 400, dtype=torch.double)
    up = torch.linspace(-1.35, 1.35, 400, dtype=torch.double)
    losses = matching_loss(relative, torch.stack(torch.meshgrid(across, up, indexing="xy"), dim=-1), TARGET)
    plane.contourf(across, up, losses, levels=torch.linspace(0, 2, 9), cmap="Greys", vmax=5.5)
    _draw_space(plane, TARGET, {}, "the target's space,\ndarker where the loss is higher")
    plane.plot(*torch.stack([0 * best, 3 * best]).T, ":", color="0.1", lw=1.5)
    plane.plot(*path.T, "o-", color="0.1", ms=4, lw=1.5)
    plane.plot(*best, "*", color="0.1", ms=17)
    plane.annotate("start", path[0].tolist(), (8, -2), textcoords="offset points", fontsize=11, weight="bold")
    plane.text(-1.63, 0.88, "optimum", fontsize=10)
    plane.set(xlim=(-1.7, 1.7), ylim=(-1.35, 1.35))

    def angle(vectors: Tensor) -> Tensor:
        """From the optimum, in degrees."""
        turned = torch.atan2(best[0] * vectors[:, 1] - best[1] * vectors[:, 0], vectors @ best)
        return turned.rad2deg()

    around = torch.linspace(0, 2 * torch.pi, 721, dtype=torch.double)
    circle = torch.stack([around.cos(), around.sin()], dim=-1)
    circle = circle[angle(circle).argsort()]
    valley.plot(angle(circle), matching_loss(relative, circle, TARGET), color="0.6")
    valley.plot(angle(path), matching_loss(relative, path, TARGET), "o-", color="0.1", ms=4, lw=1.5,
                label="the paper's search, 500 steps")
    valley.plot(0, matching_loss(relative, best, TARGET), "*", color="0.1", ms=17, ls="none",
                label="the closed form, at once")
    valley.annotate("start", (angle(path)[0].item(), matching_loss(relative, path[0], TARGET).item()), (8, 3),
                    textcoords="offset points", fontsize=11, weight="bold")
    valley.set(xlabel="direction of the vector, in degrees from the optimum", xticks=range(-180, 181, 60),
               ylabel="matching loss", ylim=(-0.12, 2.85), yticks=(0, 0.5, 1, 1.5, 2),
               title="the loss depends on the direction alone,\nand has one lowest point")
    valley.legend(loc="upper center", frameon=False, fontsize=10)
    return figure


def two_sources() -> Figure:
    """Two sources: the mean of their relative representations, and the target's vector that fits it best.

    The end of section 3.3 of the paper: the mean of the sources' matching losses has its optimum there.
    """
    relatives = [relative_representation(PROMPT, SOURCE), relative_representation(SECOND_PROMPT, SECOND)]
    mean = mean_relative(relatives, [0.5, 0.5])
    found = closed_form(mean, TARGET)
    found *= PROMPT.norm() / found.norm()
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    axes = figure.subplot_mosaic([["one", "cosines", "target"], ["two", "cosines", "target"]],
                                 width_ratios=[0.95, 1.15, 1])
    _draw_space(axes["one"], SOURCE, {"prompt": 1.1 * PROMPT}, "1. tuned on two sources")
    _draw_space(axes["two"], SECOND, {"prompt": SECOND_PROMPT}, "")
    axes["one"].set(xlabel="first source", xlim=(-2, 2.8))
    axes["two"].set(xlabel="second source", xlim=(-2, 2.8), ylim=(-1.5, 1.5))
    _draw_pairs(axes["cosines"], {"first source": relatives[0], "second source": relatives[1]},
                "2. two descriptions by the same words,\nand their mean")
    axes["cosines"].set_xlim(-1.1, 1.1)
    rows = torch.arange(len(WORDS))
    for label, values, marker, (inside, edge) in (
            ("mean of both", mean, "D", ("1", "0.05")),
            ("in the target", relative_representation(found, TARGET), "X", ("0.05", "1"))):
        axes["cosines"].plot(values, rows, marker, color=inside, mec=edge, mew=1.5, ms=10, label=label)
    handles, labels = axes["cosines"].get_legend_handles_labels()
    order = [2, 3, 0, 1]  # bars first
    axes["cosines"].legend([handles[i] for i in order], [labels[i] for i in order], loc="lower right", frameon=False,
                           fontsize=10)
    _draw_space(axes["target"], TARGET, {"prompt": found}, "3. the vector of the target\nthat fits the mean best")
    axes["target"].set_xlabel("target")
    return figure


def same_weights() -> Figure:
    """A mixture: weights over words sum up the source's embeddings, and the same weights the target's.

    Not in the paper. v = γ s u / ‖u‖ with u = Σ_w W_w e_w, as ``Mixture.on`` computes it; noise while tuning.
    """
    weights = torch.tensor([0.30, 0.45, 0.20, 0.03, 0.02], dtype=torch.double)
    figure = Figure(figsize=(10, 3.9), layout="constrained")
    here, between, there = figure.subplots(1, 3, width_ratios=[1.25, 0.7, 1.25])
    _draw_sum(here, SOURCE, weights, "1. tuned on the source: a weighted\nmean of words, under noise", noise=0.17)
    _draw_sum(there, TARGET, weights, "3. the same weights\nsum up the target's words")
    rows = torch.arange(len(WORDS))
    bars = between.barh(rows, weights, 0.6, color="0.25")
    between.bar_label(bars, [f"{w:.0%}" for w in weights.tolist()], padding=4, fontsize=11)
    between.set(yticks=rows, yticklabels=WORDS, xlim=(0, 0.6), xticks=[], xlabel="weight in the mixture",
                title="2. its weights mean the\nsame in every model")
    between.tick_params(labelsize=11)
    between.invert_yaxis()
    return figure


def kind_of_answer() -> Figure:
    """One ranking among all shared words, and among the objects of the relation: the kind of answer, and the answer.

    The scores are made up, and the same on both sides: only the candidates differ. The notebook measures P@1 with both.
    """
    scores = {"the": 9.1, "a": 8.5, "located": 8.2, "known": 7.7, "one": 7.5, "Paris": 5.1, "Rome": 4.2, "London": 3.9,
              "Tokyo": 2.6}
    among_all = dict(zip(scores, [1, 2, 3, 4, 5, 58, 131, 160, 402], strict=True))
    objects = ["Paris", "Rome", "London", "Tokyo"]
    figure = Figure(figsize=(10, 4.8), layout="constrained")
    every, own = figure.subplots(1, 2)
    gap = 1.3  # rows between the words that are shown first and the objects, for the words that are not shown
    rows = {word: i + gap * (word in objects) for i, word in enumerate(scores)}
    for ax, places, title in (
            (every, among_all, "among all shared words, “the” is first:\nthe answer and its kind are asked for"),
            (own, {word: i + 1 for i, word in enumerate(objects)},
             "among the objects of the relation, “Paris” is:\nthe answer alone is asked for")):
        for word, rank in places.items():
            kind = 0 if word == "Paris" else 1 if word in objects else 2
            ax.barh(rows[word], scores[word], 0.7, color=("0.25", "0.6", "0.9")[kind], edgecolor="0.25", lw=0.8)
            ax.text(scores[word] + 0.15, rows[word], f"rank {rank}", va="center", fontsize=10)
        ax.set(yticks=[rows[word] for word in places], yticklabels=list(places), xlim=(0, 10.9), ylim=(10, -0.8),
               title=title, xlabel="score of the word (made up)")
        ax.tick_params(axis="y", labelsize=11)
    every.text(0.15, 5.15, "⋮", fontsize=14, va="center")
    own.legend(handles=[Patch(fc=color, ec="0.25", label=label) for color, label in (
        ("0.25", "the right answer"), ("0.6", "other answers of the right kind"), ("0.9", "other words"))],
        loc="upper left", frameon=False, fontsize=11)
    figure.suptitle("One prompt asks for the capital of France: the same scores, other candidates")
    return figure


def _draw_space(ax: Axes, words: Tensor, vectors: Mapping[str, Tensor], title: str) -> None:
    """Draw words as lines from the origin, and a prompt's vectors as stars."""
    named = [*zip(WORDS, words, strict=True), *vectors.items()]
    for name, point in named:
        (x, y), (right, up) = point.tolist(), (10 * point / point.norm()).tolist()
        color, width, marker, size, weight = (("0.1", 2, "*", 16, "bold") if name in vectors else
                                              ("0.6", 1, "o", 5, "normal"))
        ax.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-", "color": color, "lw": width})
        ax.plot(x, y, marker, color=color, ms=size)
        ax.annotate(name, (x, y), (right, up), textcoords="offset points", fontsize=11, va="center",
                    ha="center" if abs(x) < 0.2 else "left" if x > 0 else "right", weight=weight)
    ax.set(xlim=(-2.6, 2.2), ylim=(-1.4, 1.6), title=title, aspect="equal", xticks=[], yticks=[],
           xlabel="embedding space")


def _draw_sum(ax: Axes, words: Tensor, weights: Tensor, title: str, noise: float = 0.0) -> None:
    """Draw words, and a mixture of them as a star: its words' shares of it, head to tail, and noise round it.

    Args:
        ax: the axes to draw into.
        words: (k, 2) embeddings.
        weights: (k,) of the mixture.
        title: of the drawing.
        noise: standard deviation of the noise; none is drawn if it is 0.
    """
    _draw_space(ax, words, {}, title)
    gain = 1.4
    shares = weights.unsqueeze(-1) * words
    shares *= gain * words.norm(dim=-1).mean() / shares.sum(0).norm()
    order = weights.argsort(descending=True)
    ends = torch.cat([torch.zeros(1, 2), shares[order].cumsum(0)])
    for weight, start, end in zip(weights[order].tolist(), ends.tolist(), ends[1:].tolist(), strict=False):
        head = "-|>" if weight > 0.1 else "-"  # the head of a short arrow would be all of it
        ax.annotate("", end, start,
                    arrowprops={"arrowstyle": head, "color": "0.1", "lw": 1.8, "shrinkA": 0, "shrinkB": 0})
    if noise:
        cloud = ends[-1] + noise * torch.randn(150, 2, generator=torch.Generator().manual_seed(0), dtype=torch.double)
        ax.plot(*cloud.T, ".", color="0.7", ms=3, zorder=1)
    x, y = ends[-1].tolist()
    ax.plot(x, y, "*", color="0.1", ms=14)
    ax.annotate("mixture", (x, y), (34 if x > 0 else -11, 0), textcoords="offset points", fontsize=11, va="center",
                ha="left" if x > 0 else "right", weight="bold")
    ax.set(xlim=(-1.9, 2.7) if x > 0 else (-2.7, 1.9), ylim=(-1.4, 1.7))


def _draw_pairs(ax: Axes, cosines: Mapping[str, Tensor], title: str) -> None:
    """Draw two relative representations as pairs of bars, dark and light."""
    rows = torch.arange(len(WORDS))
    for (label, values), shift, color in zip(cosines.items(), (-0.18, 0.18), ("0.25", "0.85"), strict=True):
        ax.barh(rows + shift, values, 0.34, color=color, edgecolor="0.25", label=label)
    ax.axvline(0, color="0.25", lw=0.8)
    ax.set(yticks=rows, yticklabels=WORDS, xlim=(-1, 1), xlabel="cosine of the vector to each shared word", title=title)
    ax.tick_params(labelsize=11)
    ax.invert_yaxis()


def _draw_table(ax: Axes, table: Tensor, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Draw a table of numbers between -1 and 1 as squares."""
    for i, row in enumerate(table.tolist()):
        _draw_squares(ax, range(len(columns)), [i] * len(columns), row, 0.9)
    ax.set(xlim=(-0.6, len(columns) - 0.4), ylim=(len(rows) - 0.4, -0.6), aspect="equal",
           xticks=range(len(columns)), xticklabels=columns, yticks=range(len(rows)), yticklabels=rows)


def _draw_squares(ax: Axes, xs: Sequence[float], ys: Sequence[float], values: Sequence[float], side: float) -> None:
    """Draw numbers as squares of their size in area, white below 0. Those beyond -1 and 1 fill the whole side."""
    for x, y, value in zip(xs, ys, values, strict=True):
        width = side * min(abs(value), 1) ** 0.5
        corner, color = (x - width / 2, y - width / 2), "0.25" if value > 0 else "1"
        ax.add_patch(Rectangle(corner, width, width, fc=color, ec="0.25"))


# The first is that of 00_quickstart and of the README; the others are named like their notebook.
IDEAS: dict[str, Callable[[], Figure]] = {
    "idea": idea, "01_tuning": one_step, "02_relative_encoding": same_rows, "03_search": search_path,
    "04_multi_source": two_sources, "13_prompts_that_travel": same_weights, "15_real_models": kind_of_answer}
