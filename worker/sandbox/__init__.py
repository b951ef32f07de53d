"""Another company's servers: a local Gigya, a local Kafka, sample events.

Shares no code with the worker, so that a wrong signature cannot agree with itself.
"""
