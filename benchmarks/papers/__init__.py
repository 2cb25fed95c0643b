"""Published tables beside ours: one file a table, frame.py runs them all."""
