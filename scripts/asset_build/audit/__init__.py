"""Compute every byte that a wheel must hold, and compare a wheel with that: for the audit and for the rebuild."""
