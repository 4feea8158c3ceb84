"""What somebody may put on the Hub, or in place of it, to break the app; `inputs.py` has the table."""
