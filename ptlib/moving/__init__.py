"""The move: anchors, relative representation, search, maps, every method of transfer, choice among moves."""
