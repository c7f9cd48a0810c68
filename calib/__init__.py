"""Calibration: of probabilities (temperature) and, later, of quantisation ranges."""
