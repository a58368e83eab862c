"""The queue, its views, and what they need to take works and to end."""
