"""Questions asked of the code: each with its command, its committed numbers, and what they do not show."""
