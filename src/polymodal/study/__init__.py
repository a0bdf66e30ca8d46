"""Studies: claims of the survey as measurements on real data (rank 9)."""
