"""The roles that an LLM can play, one per file. Each also has a built-in mind, which works when there is no LLM.

Built-in minds: scout and cross-referencer are the analysts of `agents.analysts`, the proposer is `agents.proposers`,
the scribe is `agents.scribe`; the referee (`agents.referee`) is code alone.
"""
