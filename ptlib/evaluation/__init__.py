"""Evaluation: how well a prompt answers.

``candidates`` chooses the words that may answer, ``scores`` and ``ranking`` rank them, ``evaluations`` and ``metrics``
give P@1 and other measures, and ``summaries`` makes tables with confidence intervals.
"""
