"""Writes the pages of the documentation that follow from the package itself: cards, tables and the reference."""
