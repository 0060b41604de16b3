"""HTML pages that stand alone: one file each, no network. Knows how things look, not what the numbers mean."""
