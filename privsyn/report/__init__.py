"""Two pages about one audit: all of it for those inside, aggregates for everybody else."""
