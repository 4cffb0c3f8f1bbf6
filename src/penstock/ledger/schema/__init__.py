"""The ledger's migrations: numbered SQL files, applied forward only."""
