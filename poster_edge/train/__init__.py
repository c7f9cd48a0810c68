"""Training and evaluation.  ``metrics`` needs numpy alone; everything else needs torch."""
