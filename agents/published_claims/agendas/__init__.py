"""Agendas: published claims as testable hypotheses, one TOML file each. `agents.agenda` reads them."""
