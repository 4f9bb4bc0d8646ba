"""Typed rows of what a store holds: the commands print them, the pages show them, the MCP server returns them."""
