"""Networks and their sizes as files for other tools."""
