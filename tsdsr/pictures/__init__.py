"""Reading and writing of picture files with their metadata. Nothing here needs torch."""
