"""Backups of SHELF-1 files: manifest, segments, what is added to them, and what is restored. spec/backup.md."""
