"""What callers and auditors use: the client, verification of receipts, and the audit of an epoch."""
