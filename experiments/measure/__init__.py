"""`vit-patch measure`: tests, benchmarks and comparisons on one machine, within a time limit."""
