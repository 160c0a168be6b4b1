"""The claims of the theory, T1 to T13, measured."""
