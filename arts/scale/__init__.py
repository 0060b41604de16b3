"""Collecting and searching on more than one machine."""
