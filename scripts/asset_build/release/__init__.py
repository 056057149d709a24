"""Publish a set, and write its source archive."""
