"""What runs on the edge: bundles and the runners that execute them.  No torch here."""
