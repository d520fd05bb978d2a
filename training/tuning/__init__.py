"""The fine-tuning loop, what it sees, and what it is planned to do."""
