"""Encoders of other libraries, as the extraction calls them."""
