"""Order, concurrency and progress of records."""
