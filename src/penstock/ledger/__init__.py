"""The ledger station: where it is remembered. It keeps the books and the public log."""
