"""`arts serve`: searches with a verifier behind OpenAI's protocol."""
