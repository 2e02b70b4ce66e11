"""Results made readable: tables of text, and pictures."""
