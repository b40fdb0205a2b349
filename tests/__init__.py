"""The tests of swarmbus; `make test` runs them."""
