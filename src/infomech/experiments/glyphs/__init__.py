"""Pictures of characters against their Unicode names: real pairs of image and text that any machine can draw."""
