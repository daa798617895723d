"""The environment driven by other people's frameworks, really installed: `make clients`."""
