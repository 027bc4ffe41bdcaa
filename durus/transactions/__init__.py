"""The parts of a transaction: blocks, commits, what others have changed, savepoints, and earlier states."""
