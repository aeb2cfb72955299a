"""Settings: sections that the rooms register, and the command line that becomes them."""
