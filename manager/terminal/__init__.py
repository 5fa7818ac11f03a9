"""The output of the command line on a terminal."""
