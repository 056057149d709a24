"""From sources to a verified set, the package data, and the archive."""
