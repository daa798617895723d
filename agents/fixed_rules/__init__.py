"""Fixed rules that pick patches: the baselines beside every agent."""
