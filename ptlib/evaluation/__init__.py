"""Evaluation: which words may answer, how an LM ranks them, and tables with intervals of it."""
