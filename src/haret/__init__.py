"""haret: a coordination service on rabble_trio."""
