"""Language models: one face over masked, causal and encoder–decoder LMs, how they are loaded and known."""
