"""A mix: several stores opened as one, their labels combined at read time."""
