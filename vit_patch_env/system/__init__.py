"""Files, memory and the cache folder."""
