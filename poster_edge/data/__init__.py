"""Labelled faces from files, and the way a crop becomes a network's input.  No torch here."""
