"""The miner: where a chute is served, metered and signed for."""
