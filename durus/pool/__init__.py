"""The parts of a Database: its connections, their storages, and how work is tried again."""
