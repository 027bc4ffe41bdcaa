"""Objects in memory: the cache, broken objects, and their pickles in both directions."""
