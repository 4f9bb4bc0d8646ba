"""The search space: which configurations may be proposed, as parameters with ranges."""
