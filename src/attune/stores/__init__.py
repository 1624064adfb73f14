"""What keeps: the ledger, the roll-ups, the facts and the leases."""
