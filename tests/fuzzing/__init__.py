"""Damages every kind of file that is read, in many ways, and tries what reads it."""
