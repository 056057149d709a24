"""Briefcase starts the app as `python -m embed`; what it does is in app.py, which run.sh puts beside this package."""

import sys

import app

sys.exit(app.main())
