"""Records as bytes: their parts, the pickles in them, and what changes those."""
