"""Where facts come from: one module a source, each lazy, each read through `System` alone, each read-only."""
