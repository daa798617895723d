"""Fault injection: kill runs, fill disks, damage files, and compare the results."""
