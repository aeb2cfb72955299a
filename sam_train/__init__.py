"""Train, fine-tune and measure the Segment Anything Model."""
