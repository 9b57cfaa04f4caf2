"""Users, tokens, sessions, the audit log."""
