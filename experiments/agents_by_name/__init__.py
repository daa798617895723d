"""From an agent's name on the command line to the agent."""
