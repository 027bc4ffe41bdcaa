"""Backups of SHELF-1 files: the manifest, the segments, backing up, restoring and verifying. spec/backup.md."""
