"""What a wheel must hold, byte for byte, and whether it does: for the audit of a wheel and for its rebuild."""
