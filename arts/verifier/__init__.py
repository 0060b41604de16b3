"""The flow verifier: a causal backbone with a head that reads log F(s) at the end of every step."""
