"""Processes, files and logs of the operating system."""
