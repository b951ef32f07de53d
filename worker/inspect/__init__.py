"""What rules make of events, without making it: previews, coverage, the difference of two rule sets. Sends nothing."""
