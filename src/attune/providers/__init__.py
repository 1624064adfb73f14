"""What answers: one file for each kind of service, over one HTTP transport."""
