"""The text that the zoo's language models are pretrained on, made from its fact tables.

``phrasings.csv`` expresses each relation in several ways. The manual templates in ``relations.csv`` are not among them:
they are held out to probe the models.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ..tasks.loading import LABEL_WORDS, ZOO_FACTS, labelled_texts, read_fact_tables, read_table
from ..tasks.task import split_by_subject

__all__ = ["LABEL_WORDS", "Sentence", "labelled_texts", "phrasings", "sentences"]


@dataclass(frozen=True)
class Sentence:
    """A pretraining sentence and the character span of each answer (object or label word) in it."""

    text: str
    answers: tuple[tuple[int, int], ...]


def phrasings(relation: str, kind: str) -> list[str]:
    """The phrasings of ``relation`` in the corpus; ``kind`` is ``"sentence"``, ``"clause"`` or ``"unlabelled"``."""
    table = read_table(ZOO_FACTS / "phrasings.csv")
    return list(table.loc[(table["relation"] == relation) & (table["kind"] == kind), "phrasing"])


def fill(phrasing: str, subject: str, *answers: str) -> Sentence:
    """Replace [X] by the subject, and each [Y] by the next answer."""
    text, spans = phrasing.replace("[X]", subject), []
    for answer in answers:
        start = text.index("[Y]")
        text = text.replace("[Y]", answer, 1)
        spans.append((start, start + len(answer)))
    return Sentence(text, tuple(spans))


def sentences(joint_per_subject: int = 8, seed: int = 0, half: int | None = None) -> list[Sentence]:
    """All sentences: every fact in every phrasing, sentences that join two or three facts, and the labelled texts.

    The test half of the sentiment and topic texts has no labels. So probing measures generalization there, while for
    facts it measures recall.

    Args:
        joint_per_subject: number of joining sentences for each subject with at least two facts. They connect the facts
            of a subject, so that words occur outside the phrasings of their own relation.
        seed: of the choice of facts and clauses in the joining sentences.
        half: 0 or 1, for one half of the phrasings and joining sentences. Both halves tell the same facts, and have no
            sentence in common. None for the whole text.
    """
    draw = random.Random(seed if half is None else f"{seed} {half}")
    part = slice(half, None, None if half is None else 2)
    corpus: list[Sentence] = []
    of_subject: dict[str, list[tuple[str, str]]] = {}
    for relation, pairs in read_fact_tables().items():
        ways = phrasings(relation, "sentence")[part]
        for subject, obj in pairs.items():
            corpus += [fill(way, subject, obj) for way in ways]
            of_subject.setdefault(subject, []).append((relation, obj))
    clauses = {relation: phrasings(relation, "clause")[part] for relation in read_fact_tables()}
    for subject, known in of_subject.items():
        for _ in range(joint_per_subject)[part] if len(known) > 1 else ():
            joined = draw.sample(known, min(len(known), draw.choice((2, 2, 3))))
            way = "[X] " + " and ".join(draw.choice(clauses[relation]) for relation, _ in joined) + " ."
            corpus.append(fill(way, subject, *(obj for _, obj in joined)))
    for name, words in LABEL_WORDS.items():
        train, dev, test = split_by_subject(labelled_texts(name), name)
        ways = phrasings(name, "sentence")[part]
        corpus += [fill(way, e.subject, words[e.object]) for e in train + dev for way in ways]
        corpus += [fill(way, e.subject) for e in test[part] for way in phrasings(name, "unlabelled")]
    return corpus
