"""attune: which credential pays, which tier is enough, which model serves, and what if it fails."""
