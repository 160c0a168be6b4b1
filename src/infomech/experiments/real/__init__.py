"""Studies of real models."""
