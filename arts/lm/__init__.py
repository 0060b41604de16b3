"""Local language models: loading, packing a tree into one sequence, and sampling with a shared key/value cache."""
