"""The settings: one tree from file, environment and secret files, and a place for every problem."""
