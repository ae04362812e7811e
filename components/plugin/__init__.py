"""What makes a dynamic provider's process behave: progress, width, clean errors, a watch on the engine, one session."""
