"""Training: the step, losses, optimizer and the verb `fit`."""
