"""What several agents share: a step-by-step loop, frozen agents, and reading saved files."""
