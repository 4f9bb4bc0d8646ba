"""What is particular to a model family in GGUF files: one file per architecture, named as GGUF names it."""
