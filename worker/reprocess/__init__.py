"""Dead letters, looked at and replayed: grouping and choosing are pure, reading is apart, calls go the way of `run`."""
