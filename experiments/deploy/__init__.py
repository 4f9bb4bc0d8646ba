"""From a trial to its use: recipes, generation and serving over the cache that was measured."""
