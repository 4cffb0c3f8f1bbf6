"""What every station shares and the law must not know: ports, wire, tasks, keys, logging."""
