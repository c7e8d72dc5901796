"""How many requests users and clients may send."""
