"""Search over one tree: what to draw next and what to answer, within a budget. No model, no server, no clock."""
