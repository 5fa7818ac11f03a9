"""`python -m manager.cli`: the command line without its script on PATH."""

from manager.cli.main import main

main()
