"""Dead letters: the record format and the durable writer. Imports neither delivery nor kafka."""
