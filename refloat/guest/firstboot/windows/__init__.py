"""What a recovered Windows guest runs by itself: a launcher, a script, their plan, and what starts them."""
