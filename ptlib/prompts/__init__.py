"""Prompts: vectors in a template, mixtures of words, where a prompt came from, PEFT's files in and out."""
