"""Patch schedules for training loops of other libraries, and of users."""
