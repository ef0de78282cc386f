"""Tasks: facts of a relation or labelled texts, split into train, dev and test examples.

``task`` defines them, ``loading`` loads them by name or from rows in memory, ``layouts`` finds their files and
``formats`` reads them.
"""
