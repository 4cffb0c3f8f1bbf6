"""The market's numbered migrations."""
