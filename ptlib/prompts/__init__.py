"""Prompts: vectors in a template.

``prompt`` and ``templates`` define them, ``mixtures`` describes vectors as weighted means of words, ``history`` records
how a prompt was made, and ``peft`` reads and writes the checkpoints of the PEFT library.
"""
