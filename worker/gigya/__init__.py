"""What the API says: its methods, hosts, signatures and error codes. Pure, no I/O."""
