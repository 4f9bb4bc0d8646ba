"""The pages of a store, live, behind a token on loopback."""
