"""One answer for many who ask: shared while it is under way, kept for a while, and the tasks behind it owned."""
