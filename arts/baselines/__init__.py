"""What ARTS is compared to: models that are tuned where ours stays frozen."""
