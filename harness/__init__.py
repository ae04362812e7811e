"""What the tests, the benches and the chaos runs use alike: a stack of this project on the real engine."""
