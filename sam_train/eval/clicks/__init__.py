"""Interactive evaluation: clicks and boxes on masks, and their scores."""
