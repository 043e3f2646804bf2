"""One program for each host, as docs/servers.md tells users to write it; run with this folder on the path."""
