"""Other people's rollouts: files of solutions that somebody's models wrote, as trees."""
