"""The gateway: where requests enter. It asks who pays, chooses a miner, passes the bytes on, and signs
what it saw.

It keeps nothing but memory: offers and manifests come from the bus, money from leases of the ledger,
and every order ends as one record on the bus. A gateway that is lost loses no money: its leases run
out, and miners claim their receipts themselves.
"""
