"""`python -m manager.cli`: the command line where its script is not on PATH."""

from manager.cli.main import main

main()
