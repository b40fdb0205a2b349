"""Who keeps the listener daemons, and a private broker, running."""
