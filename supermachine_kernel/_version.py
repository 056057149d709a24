"""The version, stated once; a wheel of other than the locked assets adds a local label to it."""

VERSION = "0.7.62"
