"""Work on several cores or machines, with the same results."""
