"""Transfer of prompts between models.

Here are the shared words (anchors), relative representations, the search for target vectors, maps learnt from the
anchors, the registry of transfer methods, and the choice among transferred prompts.
"""
