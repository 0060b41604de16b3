"""The normalization squeeze: exact on toy trees, measured on two models. Only `measure` runs a model."""
