"""Events become Calls by declarative rules. Pure."""
