"""``python -m isoloss``: the command line."""

from isoloss.cli.main import main

main()
