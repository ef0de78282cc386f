"""Tuning: prompts that are fitted on an LM, from nothing or from where they are (refinement)."""
