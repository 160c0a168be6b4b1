"""Shared information (E12): how many nats two sides of unseen pairs are seen to know of each other."""
