"""Prompt tuning on frozen LMs, from new vectors (``tuning``) or from an existing prompt (``refinement``)."""
