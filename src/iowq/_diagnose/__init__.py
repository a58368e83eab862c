"""For people: what cancel can do here, what the workers do, a demonstration."""
