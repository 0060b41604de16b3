"""Talking to servers: one client for all that speak HTTP and JSON. Knows no proposer and no model."""
