"""What queues count, for systems that collect such."""
