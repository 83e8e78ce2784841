"""`python -m autocompress` is the same as the command `autocompress`."""

from autocompress.cli import main

main()
