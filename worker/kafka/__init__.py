"""The only home of aiokafka."""
