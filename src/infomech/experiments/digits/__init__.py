"""The halves of handwritten digits: control and corruption."""
