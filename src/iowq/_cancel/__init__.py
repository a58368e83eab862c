"""How a work that runs is ended: where it may be, and by what."""
