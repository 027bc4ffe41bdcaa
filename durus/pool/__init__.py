"""What is below a Database: its connections, where they come from, and how work is tried again."""
