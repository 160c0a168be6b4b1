"""One sweep over the tiles of a Gram matrix, many statistics."""
