"""From a picture to face crops and back: detection, alignment, drawing.  Never imports torch."""
