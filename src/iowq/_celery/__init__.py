"""What Celery's task pool is made of."""
