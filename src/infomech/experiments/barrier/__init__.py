"""The dynamics that keep a gap open."""
