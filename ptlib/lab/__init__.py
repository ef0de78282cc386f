"""Tools that several notebooks share: studies over many models and tasks, figures and tables.

``ptlib.lab.widgets`` has the interactive explorer.
"""

import torch
import transformers

from .. import __version__
from ..evaluation.correlation import rank_correlation
from ..parameters import listed
from ..progress import progress_bar
from ..tasks.loading import title_of
from .display import keep_figures_small
from .plots import (
    LINES,
    answer_bars,
    difference_points,
    score_bars,
    score_heatmap,
    score_lines,
    use_style,
    word_picture,
)
from .published import beside_published, published_by_post
from .studies import Study, load_study, mean_fit, target_passes
from .tables import (
    by_seed,
    in_brackets,
    kinds_of_answers,
    named,
    over_facts,
    percent,
    save_table,
    say,
    wins,
    with_share,
)
from .texts import load_texts
from .words import nearest_words

__all__ = [
    "LINES", "Study", "answer_bars", "begin", "beside_published", "by_seed", "difference_points", "in_brackets",
    "kinds_of_answers", "listed", "load_study", "load_texts", "mean_fit", "named", "nearest_words", "over_facts",
    "percent", "progress_bar", "published_by_post", "rank_correlation", "save_table", "say", "score_bars",
    "score_heatmap", "score_lines", "target_passes", "title_of", "use_style", "wins", "with_share", "word_picture",
]


def begin() -> None:
    """Start a notebook: set the style of its figures and print the versions of ptlib, torch and transformers.

    Its figures are kept as small PNGs with a text for who cannot see them; see ``ptlib.lab.display``.
    """
    use_style()
    keep_figures_small()
    print(f"ptlib {__version__}, torch {torch.__version__}, transformers {transformers.__version__}")
