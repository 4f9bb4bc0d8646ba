"""The parts of a campaign's page: one file is one section, found by its name."""
