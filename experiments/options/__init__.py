"""What can be set on the command line."""
