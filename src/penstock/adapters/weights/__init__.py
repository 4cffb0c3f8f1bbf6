"""Model weights: found, fetched, proven by digest, kept within a quota, and shared."""
