"""Reference models.  ``config`` and ``registry`` need no torch; everything else does."""
