"""The page in a browser: names are tried on photographs and on a folder, and a run is corrected."""
