"""Data sets as uint8 arrays (numpy alone), and the tables of batches that training reads (torch)."""
