"""Comparison of the zoo's facts with LAMA's T-REx, for the subjects and relations that both have.

``python -m ptlib.zoo.agreement FOLDER`` prints how many facts agree, and lists the others.
"""

from __future__ import annotations

import argparse
import unicodedata
from pathlib import Path

from ..tasks.formats import read_lines
from ..tasks.loading import read_fact_tables

__all__ = ["compare"]


def compare(root: Path) -> tuple[int, list[tuple[str, str, str, set[str]]]]:
    """Count the (subject, relation) pairs that both have, and list those with different objects.

    Args:
        root: a folder with T-REx facts as JSON lines (``sub_label``, ``obj_label``), in files ``<relation>.jsonl`` at
            any depth.

    Returns:
        The number of shared pairs, and (relation, subject, the zoo's object, T-REx's objects) for each
        disagreement. If T-REx has several objects, the zoo agrees if its object is one of them.
    """
    shared, disagreements = 0, []
    for relation, facts in read_fact_tables().items():
        known: dict[str, set[str]] = {}
        for path in sorted(root.rglob(f"{relation}.jsonl")):
            for _, record in read_lines(path):
                if "sub_label" in record:
                    known.setdefault(record["sub_label"], set()).add(folded(record["obj_label"]))
        for subject, obj in facts.items():
            if subject in known:
                shared += 1
                if folded(obj) not in known[subject]:
                    disagreements.append((relation, subject, obj, known[subject]))
    return shared, disagreements


def folded(word: str) -> str:
    """The word without accents and in lower case, because the zoo's words are plain ASCII."""
    return unicodedata.normalize("NFKD", word).encode("ascii", "ignore").decode().lower()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="folder with T-REx facts as <relation>.jsonl files")
    shared_pairs, differing = compare(parser.parse_args().root)
    print(f"{shared_pairs} subject-relation pairs are in both; {shared_pairs - len(differing)} agree "
          f"({1 - len(differing) / max(shared_pairs, 1):.1%}).")
    for relation, subject, obj, others in differing:
        print(f"{relation} {subject}: zoo {obj}; T-REx {', '.join(sorted(others))}")
