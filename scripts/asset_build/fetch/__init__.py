"""Download, cache and unpack the locked files of a release."""
