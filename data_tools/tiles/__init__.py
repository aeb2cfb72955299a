"""Large photos cut into tiles: their places, their parts of objects, their georeference."""
