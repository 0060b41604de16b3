"""`python -m arts` is the same as `arts`."""

from arts.cli import main

main()
