"""What a queue tells of itself and of the machine."""
