"""The search for the values of agents and rewards."""
