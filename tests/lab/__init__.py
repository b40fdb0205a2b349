"""Throw-away booted Debian hosts for tests: real systemd, sshd and apt, without a container engine."""
