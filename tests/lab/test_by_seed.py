"""The table of means by seed, against means taken by hand."""

import numpy as np
import pandas as pd

from ptlib import Evaluation, Example, lab


def evaluation(task, seed, hits):
    """Of one prompt that gets these facts right (1) or wrong (0)."""
    examples = tuple(Example(f"subject {i}", "object") for i in range(len(hits)))
    return Evaluation(examples, ("object",) * len(hits), np.where(hits, 1, 2), (), "an LM", task, 2, seed=seed)


def test_a_row_a_seed_and_a_column_a_label_in_its_order():
    nested = {"pair": {(5, "P1"): evaluation("P1", 5, [1, 0]), (5, "P2"): evaluation("P2", 5, [1, 1, 1, 1])},
              "other pair": {(3, "P1"): evaluation("P1", 3, [0, 0])}}
    flat = [evaluation("P1", 3, [1, 1, 0, 0]), evaluation("P1", 5, [1, 0, 0, 0])]
    found = lab.by_seed({"second letter": nested, "a letter": flat})
    expected = pd.DataFrame({"second letter": {3: 0.0, 5: 75.0}, "a letter": {3: 50.0, 5: 25.0}})
    pd.testing.assert_frame_equal(found.rename_axis(index=None), expected)
