"""What notebooks share: studies over many models and tasks, figures, tables, widgets."""
