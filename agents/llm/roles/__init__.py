"""The roles that an LLM can play, one per file. Without an LLM, built-in code does the same jobs.

Scout and cross-referencer are `agents.analysis.analysts` then, the proposer is `agents.samplers`, the scribe is
`agents.writing.summary`.
"""
