"""Models whose weights come with a package from the package index: one file per model."""
