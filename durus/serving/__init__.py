"""The parts of the storage server that touch sockets and disks."""
