"""What ranks models: shared information and other numbers, against recall on all pairs."""
