"""Amortized Reasoning Tree Search: make a frozen language model better at problems whose answers can be checked.

collect (trees) -> train (flow verifier) -> solve / evaluate. See README.md for the map of the files.
"""


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module 'arts' has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and rarely asked for

    try:
        return version("arts-llm")
    except PackageNotFoundError:  # a checkout that was not installed
        return "0+unknown"
