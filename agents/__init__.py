"""Who proposes and who analyses: the Optuna studies, the built-in analysts and the LLM roles."""
