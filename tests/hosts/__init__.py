"""Tests on booted Debian hosts; they need root and are skipped, with the reason, where none can be booted."""
