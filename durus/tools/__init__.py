"""Work on whole databases: copy, rename, and the way from Python 2."""
