"""The file of FileStorage2: its layout, reading and packing. spec/file-storage-2.md."""
