"""Processes, signals and messages of the command line."""
