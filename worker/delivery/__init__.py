"""A Call becomes its Outcome: gates, signature, attempt, verdict, schedule."""
