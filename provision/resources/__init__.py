"""Kinds of things on a host that swarmbus can bring about, and take back."""
