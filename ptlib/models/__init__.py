"""Language models: one interface to masked, causal and encoder–decoder LMs.

``lm`` has the interface, ``loading`` and ``formats`` read checkpoints, ``proof`` tests a model when it is loaded,
``vocabulary`` handles tokens and words, and ``fingerprints`` identifies a model by a hash of its checkpoint.
"""
