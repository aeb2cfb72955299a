"""Photos of every kind as 8-bit RGB: files, pages, bands, and how they are shown."""
