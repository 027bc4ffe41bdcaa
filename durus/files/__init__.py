"""Storages in one file: the operating system below, what all formats share, and a folder for each format."""
